"""Where runs are written down: one MLflow store for the project, whichever folder or experiment a stage runs in."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.running.provenance import flat

if TYPE_CHECKING:
    import mlflow

V = TypeVar("V")

EXPERIMENT = "tandem"


def project_root() -> Path:
    """The project's folder; from inside a workspace of `dvc exp run --temp` or `--queue`, the folder that queued it."""
    here = Path.cwd().resolve()
    parts = here.parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return here


def use_tracking() -> "mlflow.MlflowClient":
    """Point MLflow at `MLFLOW_TRACKING_URI`, or else at the project's own sqlite store, and return a client."""
    import mlflow

    root = project_root()
    # Asked before the URI is set: mlflow.set_tracking_uri sets the variable too.
    is_ours = "MLFLOW_TRACKING_URI" not in os.environ
    if is_ours:
        mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        try:
            mlflow.create_experiment(EXPERIMENT, artifact_location=(root / "mlartifacts").as_uri() if is_ours else None)
        except mlflow.MlflowException:
            # Another stage made it between the look and the call; then it is there.
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                raise
    mlflow.set_experiment(EXPERIMENT)
    return mlflow.MlflowClient()


def log_in_batches(settings: dict[str, str], measured: Any) -> None:
    """Log params and scores; a tracking server takes so many in one call, and few signs in a metric's name."""
    import mlflow

    metrics = {re.sub(r"[^\w\-./ ]", "_", name): float(value) for name, value in flat(measured) if _is_number(value)}
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
