"""The funnel of rows: what each stage of the data half received, what ended there and why, what went on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from stages.corpus import ledger
from stages.corpus.ledger import CHAIN, ON, STATES, TUNING

MOST_REASONS = 6
"""Reasons named per state; the rest are counted together."""
TOLD = {
    "unreadable": "could not be read",
    "excluded": "named by their source to be left out",
    "quarantined": "broke the data contract",
    "duplicate": "said already by another row",
    "contaminated": "too like an item of a benchmark",
    "not_in_coreset": "not in the chosen coreset",
    "over_cap": "over a limit that params.yaml sets",
    "unbalanced": "left out so that Yes and No are equally many",
    "not_in_dose": "not in the chosen dose",
    "held_out": "kept aside for testing",
    "unused": "of a source that no tuning stage names",
    "too_long": "longer than params.yaml allows, in tokens",
    "uncertified": "whose loss mask could not be proved",
    "ready": "ready to learn from",
    "unseen": "ready, but the steps ended before their turn",
    "trained": "learnt from",
}
KEPT = ("ready", "trained", "held_out")
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


def funnels(parts: Sequence[pl.DataFrame]) -> list[Funnel]:
    """The funnel of all sources together, then of each; refuses ledgers that do not add up.

    `parts` are of the whole chain, as `ledger.read_parts` gives them.
    """
    ledger.join(parts)
    counted = [_counted(part) for part in parts]
    sources = sorted(parts[0]["source"].unique().cast(pl.String))
    of_each = [_funnel(source, [part.filter(pl.col("source") == source) for part in counted]) for source in sources]
    return [_funnel("all sources", counted), *of_each]


def _counted(part: pl.DataFrame) -> pl.DataFrame:
    """One stage's rows by source, state and the reason's name, with the detail of the first of each."""
    detail = pl.col("reason").first().str.splitn(":", 2).struct[1].fill_null("").str.strip_chars()
    name = ledger.reason_names().alias("name")
    # A reason has thousands of details (`exact: tasks:17`), so names are taken of the rows and only then counted.
    return part.group_by("source", "state", name, maintain_order=True).agg(rows=pl.len(), detail=detail)


def _funnel(source: str, parts: Sequence[pl.DataFrame]) -> Funnel:
    """The funnel of the rows counted in `parts`, one part a stage."""
    steps = tuple(_step(stage, part) for stage, part in zip(CHAIN, parts, strict=True))
    return Funnel(source, steps[0].received, steps)


def _step(stage: str, part: pl.DataFrame) -> Step:
    by_state: dict[str, list[dict[str, Any]]] = {}
    for row in part.to_dicts():
        by_state.setdefault(row["state"], []).append(row)
    went_on = sum(row["rows"] for row in by_state.pop(ON, []))
    ends = tuple(_end(state, by_state[state]) for state in STATES if state in by_state)
    return Step(stage, went_on + sum(end.rows for end in ends), went_on, ends)


def _end(state: str, counted: Sequence[Mapping[str, Any]]) -> End:
    rows: dict[str, int] = {}
    details: dict[str, str] = {}
    for one in counted:  # one of each source
        rows[one["name"]] = rows.get(one["name"], 0) + one["rows"]
        details.setdefault(one["name"], one["detail"])
    if state == "ready":
        order = sorted(rows, key=lambda name: (TUNING.index(name) if name in TUNING else len(TUNING), name))
    else:
        order = sorted(rows, key=lambda name: (-rows[name], name))[:MOST_REASONS]
    named = tuple(Reason(name, rows[name], details[name]) for name in order)
    total = sum(rows.values())
    return End(state, total, named, total - sum(reason.rows for reason in named))
