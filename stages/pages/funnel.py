"""The funnel of rows: what each stage of the data half received, what ended there and why, what went on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.corpus import ledger
from stages.corpus.ledger import ON, STATES, Line

CHAIN = ("ingest", "validate", "curate", "render")
MOST_REASONS = 6
"""Reasons named per state; the rest are counted together."""
TOLD = {
    "unreadable": "could not be read",
    "quarantined": "broke the data contract",
    "duplicate": "said before, behind the same picture",
    "over_cap": "over the cap of their task",
    "unbalanced": "left out so that Yes and No are equally many",
    "not_in_dose": "not in the chosen dose",
    "held_out": "kept aside for testing",
    "unused": "of no use to any tuning stage",
    "too_long": "longer than the model may read",
    "uncertified": "whose loss mask could not be proved",
    "ready": "ready to learn from",
}
KEPT = ("ready", "held_out")
"""Ends that are no loss."""


@dataclass(frozen=True, slots=True)
class End:
    """A state in which rows ended, and the reasons for it, the most frequent first."""

    state: str
    rows: int
    reasons: tuple[tuple[str, int], ...]
    others: int
    """Rows whose reason is not among `reasons`."""

    @property
    def told(self) -> str:
        """The state in words."""
        return TOLD.get(self.state, self.state.replace("_", " "))

    @property
    def kept(self) -> bool:
        """Whether rows in this state are used: to learn from, or to test with."""
        return self.state in KEPT


@dataclass(frozen=True, slots=True)
class Step:
    """One stage's part in the funnel."""

    stage: str
    received: int
    went_on: int
    ends: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class Funnel:
    """The way of all rows of one source, or of all sources."""

    source: str
    rows: int
    steps: tuple[Step, ...]

    @property
    def ends(self) -> dict[str, int]:
        """Rows by the state they ended in, in the order of the chain."""
        found = {end.state: end.rows for step in self.steps for end in step.ends}
        return {state: found[state] for state in STATES if state in found}

    @property
    def ready(self) -> int:
        """Rows that a model learns from."""
        return self.ends.get("ready", 0)


def read_ledgers(ingested: Path, validated: Path, curated: Path, rendered: Path) -> list[list[Line]]:
    """The lines of the four stages of the data half, in the order of the chain."""
    first = [line for path in sorted(ingested.glob("*/ledger.parquet")) for line in ledger.read(path)]
    return [first, *(ledger.read(folder / "ledger.parquet") for folder in (validated, curated, rendered))]


def funnels(parts: Sequence[Sequence[Line]]) -> list[Funnel]:
    """The funnel of all sources together, then of each; refuses ledgers that do not add up."""
    ledger.join(parts)
    sources = sorted({line.source for line in parts[0]})
    of_each = [funnel(source, [[line for line in part if line.source == source] for part in parts]) for source in sources]
    return [funnel("all sources", parts), *of_each]


def funnel(source: str, parts: Sequence[Sequence[Line]]) -> Funnel:
    """The funnel of the rows in `parts`, one part a stage."""
    steps = tuple(_step(stage, part) for stage, part in zip(CHAIN, parts, strict=True))
    return Funnel(source, len(parts[0]), steps)


def _step(stage: str, part: Sequence[Line]) -> Step:
    states = Counter(line.state for line in part)
    order = [state for state in STATES if states[state]]
    reasons = {state: Counter(line.reason for line in part if line.state == state) for state in order}
    return Step(stage, len(part), states[ON], tuple(_end(state, states[state], reasons[state]) for state in order))


def _end(state: str, rows: int, reasons: Counter[str]) -> End:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    # Where each row has a reason of its own (the row it repeats), a few stand for all.
    named = ordered[:MOST_REASONS] if len(ordered) <= 2 * MOST_REASONS or ordered[0][1] > 1 else ordered[:2]
    return End(state, rows, tuple(named), rows - sum(number for _, number in named))
