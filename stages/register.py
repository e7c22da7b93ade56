"""Package the tuned model, prove the package in a clean process, test it against the champion; move the alias, or say why not.

A version is its bytes: registering the same model a second time makes no new version. The one that has these bytes is
proved again and meets the gate again, and its newest evaluation is what later candidates are tested against; so
`dvc repro --force`, a second clean run, or another gate in params.yaml leave the list of versions as it was.
"""

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import mlflow
import pandas as pd
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema
from pydantic import Field, NonNegativeInt, PositiveInt

from stages.benchmarks.benchmark import SHORT_KINDS
from stages.benchmarks.statistics import paired
from stages.corpus.images import read_images, stores
from stages.models import served
from stages.running import command
from stages.running.command import Out
from stages.running.section import Section, read_params
from stages.running.tracking import use_tracking

V = TypeVar("V")

CHAMPION = "champion"
PACKAGES = ("mlflow", "torch", "transformers", "accelerate", "safetensors", "pillow", "jinja2", "numpy", "pandas")
"""What a served model needs, at the versions it was tuned and proved with."""

PROGRAM = """
import importlib.util, json, sys
import pandas as pd
assert importlib.util.find_spec("stages") is None, "the project can be imported here: this process proves nothing"
import mlflow
mlflow.set_tracking_uri(sys.argv[2])
mlflow.set_registry_uri(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = []
with open(sys.argv[3], encoding="utf-8") as questions:
    for question in map(json.loads, questions):
        limit = question.pop("max_new_tokens")
        answers += list(model.predict(pd.DataFrame([question]), params={"max_new_tokens": limit})["answer"])
with open(sys.argv[4], "w", encoding="utf-8") as file:
    json.dump(answers, file)
"""
"""The proof's own process: any user's few lines, with nothing of this project within reach."""


class Gate(Section):
    """What must hold before the alias moves."""

    held_out_macro: float
    """Least macro average over held-out tasks with short, choice or judgement answers, 0 to 1."""
    llava_bench_gain: float
    """Least gain of the LLaVA-Bench-like relative score from train to align, in points of 100."""
    macro_drop: float
    """Most by which align's held-out macro average may lie under train's, 0 to 1."""
    better_than_champion: Annotated[float, Field(gt=0, lt=1)]
    """Level of the paired test against the champion, 0 to 1: the share of equal candidates that pass by luck."""


class Params(Section):
    """Register's section of params.yaml."""

    name: Annotated[str, Field(pattern=r"^[\w .-]+$")]
    """The registered model's name: letters, digits, spaces, dots, dashes, underscores."""
    seed: NonNegativeInt
    """Draws the resamples of the paired test."""
    resamples: PositiveInt
    """Resamples of the paired test, clustered by picture."""
    gate: Gate
    """All must hold, or the champion stays."""
    proof_questions: PositiveInt
    """Held-out questions that the packaged model answers in a clean process; fewer if fewer were held out."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of the gate: what was measured, what was wanted, whether it holds, in words where figures do not do."""

    name: str
    value: float | None
    threshold: float
    holds: bool
    why: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What the packaged model did in its clean process."""

    questions: int
    equal: int
    """Answers equal to the tuned model's, letter for letter; all must be."""
    unlike_base: int
    """Answers that the base model did not give; one must be."""
    differing: list[dict[str, str]]
    """The first few that are not equal: question, the tuned model's answer, the package's."""

    @property
    def holds(self) -> bool:
        """The package is the tuned model, and not the base."""
        return self.equal == self.questions and self.unlike_base > 0


def register(
    params: Params,
    short_tokens: str,
    long_tokens: str,
    precision: str,
    model: Path,
    base_answers: Path,
    tuned_answers: Path,
    ingested: Path,
    scores: Path,
    items: Path,
    report: Path,
    verdict: Out,
) -> None:
    """Register `model`, which gave `tuned_answers`, and write what became of it to `verdict`."""
    limits = {"short": int(short_tokens), "long": int(long_tokens)}
    questions = proof_questions(base_answers, tuned_answers, ingested, limits, params.proof_questions)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = use_tracking()
    facts = facts_of_run(Path())
    measured = json.loads(scores.read_text(encoding="utf-8"))
    with mlflow.start_run(run_name="register", tags=facts.tags) as run:
        _log_in_batches(facts.params, measured)
        for path in (scores, items, report):
            mlflow.log_artifact(str(path), "evaluation")
        version = version_of(client, params.name, model, precision, questions[0], limits["long"], facts.tags)
        client.set_model_version_tag(params.name, version.version, "evaluation_run", run.info.run_id)

    proof = proof_of(questions, answers_in_a_clean_process(params.name, version.version, questions))
    conditions = [
        Condition(
            "proof",
            proof.equal / proof.questions,
            1.0,
            proof.holds,
            f"{proof.equal} of {proof.questions} answers are the tuned model's, {proof.unlike_base} are not the base's",
        ),
        *threshold_conditions(params.gate, measured),
        champion_condition(params, client, version, items),
    ]
    promoted = all(condition.holds for condition in conditions)
    if promoted:
        client.set_registered_model_alias(params.name, CHAMPION, version.version)
    client.set_model_version_tag(params.name, version.version, "proof", "holds" if proof.holds else "fails")
    client.set_model_version_tag(params.name, version.version, "gate", "passed" if promoted else "kept out")
    words = in_words(params.name, version.version, conditions)
    client.update_model_version(params.name, version.version, description=words)
    record = {
        "name": params.name,
        "version": int(version.version),
        "promoted": promoted,
        "conditions": [asdict(condition) for condition in conditions],
        "proof": {**asdict(proof), "holds": proof.holds},
    }
    verdict.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(words)


def in_words(name: str, version: str, conditions: Sequence[Condition]) -> str:
    """The verdict for a person: each condition on a line, then what happened to the alias."""
    lines = [f"  {'holds' if each.holds else 'FAILS'}  {each.name}: {each.why}" for each in conditions]
    if all(condition.holds for condition in conditions):
        lines.append(f"{name} version {version} is now @{CHAMPION}")
    else:
        failed = ", ".join(condition.name for condition in conditions if not condition.holds)
        lines.append(f"{name} version {version} is registered, but @{CHAMPION} stays where it was: {failed}")
    return "\n".join(lines)


# The package


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a run came from: no inputs of the stage, but what a person asks of a version months later."""

    tags: dict[str, str]
    """git's commit, whether code differed from it, and `md5.<path>` of every output DVC has recorded."""
    params: dict[str, str]
    """The whole of params.yaml, flat: `train.lora.rank` → `16`."""


def facts_of_run(folder: Path) -> Facts:
    """The facts of a run in `folder`: from git, dvc.lock and params.yaml, each left out where it is not there.

    dvc.lock cannot be a dependency: DVC writes it anew after every stage.
    """
    tags = {"git_commit": _git(folder, "rev-parse", "HEAD") or "none"}
    if tags["git_commit"] != "none":
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
        tags["git_differs"] = "yes" if changed else "no"
    lock = folder / "dvc.lock"
    if lock.is_file():
        stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
        stages.pop("register", None)  # the verdict of the run before
        for stage in stages.values():
            tags |= {f"md5.{out['path']}": out["md5"] for out in stage.get("outs", []) if "md5" in out}
    settings = folder / "params.yaml"
    return Facts(tags, dict(_flat(read_params(settings))) if settings.is_file() else {})


def _git(folder: Path, *words: str) -> str | None:
    """What git says, None where git or a repository is missing."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _log_in_batches(settings: dict[str, str], measured: Any) -> None:
    """Log params and scores; a tracking server takes so many in one call, and few signs in a metric's name."""
    metrics = {re.sub(r"[^\w\-./ ]", "_", name): float(value) for name, value in _flat(measured) if _is_number(value)}
    for some_params in _parts(settings, 100):
        mlflow.log_params(some_params)
    for some_metrics in _parts(metrics, 1000):
        mlflow.log_metrics(some_metrics)


def _parts(whole: Mapping[str, V], size: int) -> Iterator[dict[str, V]]:
    rows = list(whole.items())
    for start in range(0, len(rows), size):
        yield dict(rows[start : start + size])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text) is not None


@dataclass(frozen=True, slots=True)
class ProofQuestion:
    """A question with its picture, and the answers that the tuned and the base model gave to it."""

    image: bytes | None
    question: str
    max_new_tokens: int
    tuned: str
    base: str

    @property
    def row(self) -> dict[str, str]:
        """As the served model takes it."""
        image = "" if self.image is None else base64.b64encode(self.image).decode()
        return {"image_b64": image, "question": self.question}


def version_of(
    client: mlflow.MlflowClient,
    name: str,
    model: Path,
    precision: str,
    example: ProofQuestion,
    max_new_tokens: int,
    tags: dict[str, str],
) -> ModelVersion:
    """The version of `name` with the bytes of `model`: the one there is, or a new one, logged into the active run."""
    digest = digest_of(model, Path(served.__file__), precision)
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
        python_model=served.__file__,
        artifacts={"model": str(model)},
        model_config={"precision": precision},
        signature=signature,
        input_example=(pd.DataFrame([example.row]), {"max_new_tokens": example.max_new_tokens}),
        # Given, because MLflow would otherwise load the model in another process to find them out.
        pip_requirements=requirements(),
    )
    return mlflow.register_model(info.model_uri, name, tags={"digest": digest, "git_commit": tags["git_commit"]})


def digest_of(model: Path, code: Path, precision: str) -> str:
    """sha256 over everything that decides what the package answers: names and bytes of its files, and its precision."""
    digest = hashlib.sha256(precision.encode())
    for path in sorted(path for path in [*model.rglob("*"), code] if path.is_file()):
        name = code.name if path == code else path.relative_to(model).as_posix()
        digest.update(f"\0{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def requirements() -> list[str]:
    """`package==version` for all the package needs; without the part of torch's version that names one machine's build."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in PACKAGES]


# The proof


def proof_questions(base: Path, tuned: Path, ingested: Path, limits: Mapping[str, int], wanted: int) -> list[ProofQuestion]:
    """At most `wanted` held-out questions with both models' recorded answers, spread over the tasks.

    Raises:
        ValueError: none was held out, or the two models were not asked the same.
    """
    said = {name: _recorded(folder) for name, folder in (("base", base), ("tuned", tuned))}
    if said["base"].keys() != said["tuned"].keys():
        raise ValueError(f"{base} and {tuned} answer different held-out questions; `dvc repro` makes both from one selection")
    if not said["tuned"]:
        raise ValueError(
            "no question was held out, so nothing can be proved of the packaged model; give curate.held_out in "
            "params.yaml a larger share"
        )
    chosen = [said["tuned"][key] for key in _spread(said["tuned"], wanted)]
    digests = {row["image"] for row in chosen if row["image"]}
    pictures = dict(read_images(stores(ingested), digests))
    return [
        ProofQuestion(
            image=pictures[row["image"]] if row["image"] else None,
            question=row["question"],
            max_new_tokens=limits["short" if row["kind"] in SHORT_KINDS else "long"],
            tuned=row["answer"],
            base=said["base"][row["source"], row["row"]]["answer"],
        )
        for row in chosen
    ]


def _recorded(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (folder / "held_out" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return {(row["source"], row["row"]): row for row in map(json.loads, lines)}


def _spread(rows: Mapping[tuple[str, int], Mapping[str, Any]], wanted: int) -> list[tuple[str, int]]:
    """Keys of `rows`: the first of every task, then the second of every task, and so on, until `wanted` are there."""
    turn: dict[str, int] = {}
    places = []
    for key in sorted(rows):
        task = rows[key]["task"]
        turn[task] = turn.get(task, -1) + 1
        places.append((turn[task], task, key))
    return [key for _, _, key in sorted(places)[:wanted]]


def answers_in_a_clean_process(name: str, version: str, questions: Sequence[ProofQuestion]) -> list[str]:
    """What the version answers, loaded from the registry by a process that has never seen this project."""
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        asked, answered = Path(folder) / "questions.jsonl", Path(folder) / "answers.json"
        lines = [json.dumps({**each.row, "max_new_tokens": each.max_new_tokens}) for each in questions]
        asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
        hidden = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        # -P: the folder it starts in is not searched for modules either.
        words = [sys.executable, "-P", "-c", PROGRAM, f"models:/{name}/{version}", _absolute(mlflow.get_tracking_uri())]
        done = subprocess.run([*words, str(asked), str(answered)], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"version {version} of {name} does not load and answer in a clean process:\n{done.stderr}")
        answers = json.loads(answered.read_text(encoding="utf-8"))
    assert isinstance(answers, list)
    return answers


def proof_of(questions: Sequence[ProofQuestion], answers: Sequence[str]) -> Proof:
    """The package's answers held against the recorded ones."""
    pairs = list(zip(questions, answers, strict=True))
    differing = [
        {"question": each.question, "tuned": each.tuned, "packaged": answer} for each, answer in pairs if answer != each.tuned
    ]
    return Proof(
        questions=len(pairs),
        equal=len(pairs) - len(differing),
        unlike_base=sum(answer != each.base for each, answer in pairs),
        differing=differing[:5],
    )


def _absolute(uri: str) -> str:
    """`uri`, meaning the same from any folder: SQLite's may be relative to this one."""
    found = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{Path(found[1]).resolve()}" if found else uri


# The gate


def threshold_conditions(gate: Gate, measured: Any) -> list[Condition]:
    """The conditions that need the scores alone; what was not measured does not hold."""
    before, macro = (score_of(measured, model, "held_out", "macro") for model in ("train", "align"))
    relative_before, relative = (score_of(measured, model, "llava_bench", "relative") for model in ("train", "align"))
    gain = None if relative is None or relative_before is None else relative - relative_before
    drop = None if macro is None or before is None else before - macro
    return [
        Condition(
            "held_out_macro",
            macro,
            gate.held_out_macro,
            macro is not None and macro >= gate.held_out_macro,
            f"align's macro average {_figure(macro)}, wanted at least {gate.held_out_macro}",
        ),
        Condition(
            "llava_bench_gain",
            gain,
            gate.llava_bench_gain,
            gain is not None and gain >= gate.llava_bench_gain,
            f"relative score from train's {_figure(relative_before)} to align's {_figure(relative)}, "
            f"wanted a gain of at least {gate.llava_bench_gain}",
        ),
        Condition(
            "macro_drop",
            drop,
            gate.macro_drop,
            drop is not None and drop <= gate.macro_drop,
            f"macro average from train's {_figure(before)} to align's {_figure(macro)}, "
            f"wanted a drop of at most {gate.macro_drop}",
        ),
    ]


def score_of(measured: Any, *names: str) -> float | None:
    """One score of scores.json, None where it was not measured."""
    for name in names:
        measured = measured.get(name) if isinstance(measured, dict) else None
    return None if measured is None else float(measured)


def _figure(score: float | None) -> str:
    return "(not measured)" if score is None else f"{score:.4g}"


def champion_condition(params: Params, client: mlflow.MlflowClient, version: ModelVersion, items: Path) -> Condition:
    """The paired test against the champion, on the questions both were asked; nothing to beat holds too."""
    level = params.gate.better_than_champion
    champion = champion_of(client, params.name)
    if champion is None:
        return Condition("better_than_champion", None, level, True, "there is no champion yet")
    if int(champion.version) == int(version.version):
        return Condition("better_than_champion", None, level, True, f"version {version.version} is the champion")
    run = champion.tags.get("evaluation_run")
    if run is None:
        why = f"the champion, version {champion.version}, was registered without an evaluation to be tested against"
        return Condition("better_than_champion", None, level, False, why)
    with tempfile.TemporaryDirectory(prefix="champion-") as folder:
        path = mlflow.artifacts.download_artifacts(run_id=run, artifact_path="evaluation/items.parquet", dst_path=folder)
        theirs = _items(Path(path))
    return compare(_items(items), theirs, level, params.resamples, params.seed, f"version {champion.version}")


def champion_of(client: mlflow.MlflowClient, name: str) -> ModelVersion | None:
    """The version the alias points to, None if there is none."""
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if number is None else client.get_model_version(name, number)


KEY = ["benchmark", "task", "item", "image", "question", "truth"]
"""What makes an item of two evaluations the same: a changed question or truth makes it another."""


def _items(path: Path) -> pd.DataFrame:
    items = pd.read_parquet(path, columns=["model", *KEY, "score"])
    return items[items["model"] == "align"].drop(columns="model")


def compare(ours: pd.DataFrame, theirs: pd.DataFrame, level: float, resamples: int, seed: int, champion: str) -> Condition:
    """Whether we are better than the champion on some benchmark and worse on none, corrected for their number.

    Holm's correction over the benchmarks keeps the chance that an equal model passes at `level`, however many benchmarks
    there are. Pictures are resampled, not questions: two questions about one picture are no two pieces of evidence.
    """
    name = "better_than_champion"
    pairs = ours.merge(theirs, on=KEY, suffixes=("_ours", "_theirs"), validate="one_to_one")
    # A judge may have given no verdict on one of the two.
    pairs = pairs.dropna(subset=["score_ours", "score_theirs"])
    if pairs.empty:
        why = f"{champion} was never asked these questions, so nothing says which is better; evaluate it on them"
        return Condition(name, None, level, False, why)
    tests = {}
    for benchmark, group in pairs.groupby("benchmark", sort=True):
        pictures = group["image"].where(group["image"].astype(bool), group["item"]).tolist()
        both = group["score_theirs"].tolist(), group["score_ours"].tolist()
        tests[str(benchmark)] = paired(*both, pictures, resamples, seed)
    better = holm({each: test.p_better for each, test in tests.items()})
    worse = holm({each: test.p_worse for each, test in tests.items()})
    words = ", ".join(
        f"{each} {test.difference:+.3f} (p better {better[each]:.3f}, worse {worse[each]:.3f})" for each, test in tests.items()
    )
    return Condition(
        name,
        min(better.values()),
        level,
        min(better.values()) <= level < min(worse.values()),
        f"against {champion} on {len(pairs)} questions: {words}; wanted p ≤ {level} for better somewhere and for worse nowhere",
    )


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the chance of any false alarm among all tests stays at the level, in any dependence."""
    corrected = {}
    highest = 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        highest = max(highest, min(1.0, ps[name] * (len(ps) - rank)))
        corrected[name] = highest
    return corrected


if __name__ == "__main__":
    command.run(register)
