"""The tuned model as a version in MLflow's registry: a version is its bytes, and the same bytes are never two versions."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

from stages.models import processors, served

CODE = (Path(served.__file__), Path(processors.__file__))
"""What runs where the model is loaded: the first is asked, and imports the others."""
PACKAGES = ("mlflow", "torch", "transformers", "accelerate", "safetensors", "pillow", "jinja2", "numpy", "pandas")
"""What a served model needs, at the versions it was tuned and proved with."""


def version_of(
    client: mlflow.MlflowClient,
    name: str,
    model: Path,
    precision: str,
    example: tuple[pd.DataFrame, dict[str, int]],
    max_new_tokens: int,
    tags: dict[str, str],
) -> ModelVersion:
    """The version of `name` with the bytes of `model`: the one there is, or a new one, logged into the active run."""
    digest = digest_of(model, CODE, precision)
    known = client.search_model_versions(f"name = '{name}'")
    same = [version for version in known if version.tags.get("digest") == digest]
    if same:
        return min(same, key=lambda version: int(version.version))
    text = mlflow.types.DataType.string
    signature = ModelSignature(
        inputs=Schema([ColSpec(text, "image_b64"), ColSpec(text, "question")]),
        outputs=Schema([ColSpec(text, "answer")]),
        params=ParamSchema([ParamSpec("max_new_tokens", mlflow.types.DataType.long, max_new_tokens)]),
    )
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(CODE[0]),
        code_paths=[str(path) for path in CODE[1:]],
        artifacts={"model": str(model)},
        model_config={"precision": precision},
        signature=signature,
        input_example=example,
        # Given, because MLflow would otherwise load the model in another process to find them out.
        pip_requirements=requirements(),
    )
    return mlflow.register_model(info.model_uri, name, tags={"digest": digest, "git_commit": tags["git_commit"]})


def digest_of(model: Path, code: Sequence[Path], precision: str) -> str:
    """sha256 over everything that decides what the package answers: names and bytes of its files, and its precision."""
    digest = hashlib.sha256(precision.encode())
    for path in sorted(path for path in [*model.rglob("*"), *code] if path.is_file()):
        name = path.name if path in code else path.relative_to(model).as_posix()
        digest.update(f"\0{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def requirements() -> list[str]:
    """`package==version` for all the package needs; without the part of torch's version that names one machine's build."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in PACKAGES]
