"""The funnel of rows: what each stage of the data half received, what ended there and why, what went on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.corpus import ledger
from stages.corpus.ledger import ON, STATES, Line, reason_name

CHAIN = ("ingest", "validate", "curate", "render")
MOST_REASONS = 6
"""Reasons named per state; the rest are counted together."""
TOLD = {
    "unreadable": "could not be read",
    "quarantined": "broke the data contract",
    "duplicate": "said before, behind the same picture",
    "contaminated": "too like an item of a benchmark",
    "not_in_coreset": "not in the chosen coreset",
    "over_cap": "over the cap of their task",
    "unbalanced": "left out so that Yes and No are equally many",
    "not_in_dose": "not in the chosen dose",
    "held_out": "kept aside for testing",
    "unused": "of no use to any tuning stage",
    "too_long": "longer than the model may read",
    "uncertified": "whose loss mask could not be proved",
    "ready": "ready to learn from",
}
TUNING = ("connect", "train", "align")
"""What rows are ready for, in the order of the tuning stages."""
KEPT = ("ready", "held_out")
"""Ends that are no loss."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows ended in a state, and the detail of one of them."""

    name: str
    rows: int
    detail: str


@dataclass(frozen=True, slots=True)
class End:
    """A state in which rows ended, and the reasons for it, the most frequent first."""

    state: str
    rows: int
    reasons: tuple[Reason, ...]
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
    rows = Counter(line.state for line in part)
    went_on = rows.pop(ON, 0)
    ends = (_end(state, [line.reason for line in part if line.state == state]) for state in STATES if rows[state])
    return Step(stage, len(part), went_on, tuple(ends))


def _end(state: str, reasons: Sequence[str]) -> End:
    rows = Counter(map(reason_name, reasons))
    details = {reason_name(reason): reason.partition(":")[2].strip() for reason in reversed(reasons)}
    if state == "ready":
        order = sorted(rows, key=lambda name: (TUNING.index(name) if name in TUNING else len(TUNING), name))
    else:
        order = sorted(rows, key=lambda name: (-rows[name], name))[:MOST_REASONS]
    named = tuple(Reason(name, rows[name], details[name]) for name in order)
    return End(state, len(reasons), named, len(reasons) - sum(reason.rows for reason in named))
