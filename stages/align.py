"""Stage 2: a small synthesized set teaches the form of the answer."""

from pathlib import Path

from pydantic import PositiveInt

from stages.running import command
from stages.running.command import Out
from stages.tuning.launch import launch
from stages.tuning.params import Tuning


class Params(Tuning):
    """How `align` tunes, and on how much."""

    dose: PositiveInt
    """How many examples, at least one, kinds in the proportions their sources have them. `curate` draws them."""


def align(
    params: Params, rendered: Path, former: Path, ingested: Path, base: Path, model: Out, metrics: Out, curve: Out, ledger: Out
) -> None:
    """Tune the model in `base` on the trees of `rendered`, and again on a share of those of `former`."""
    tuning = Tuning.model_validate(params.model_dump(exclude={"dose"}))
    launch("align", tuning, rendered, former, ingested, base, model, metrics, curve, ledger)


if __name__ == "__main__":
    command.run(align)
