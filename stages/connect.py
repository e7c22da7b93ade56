"""Stage 0: the connector learns from captions, so that pictures reach the language model."""

from pathlib import Path

from stages.running import command
from stages.running.command import Out
from stages.tuning.launch import launch
from stages.tuning.params import Tuning


class Params(Tuning):
    """How `connect` tunes."""


def connect(params: Params, rendered: Path, ingested: Path, base: Path, model: Out, metrics: Out, curve: Out) -> None:
    """Tune the model in `base` on the trees of `rendered`."""
    if params.replay:
        raise ValueError(f"connect.replay must be 0, got {params.replay}: no stage comes before it; change it in params.yaml")
    launch("connect", params, rendered, rendered, ingested, base, model, metrics, curve)


if __name__ == "__main__":
    command.run(connect)
