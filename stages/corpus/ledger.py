"""The ledger: one line per source row and stage that met it, and from these one final state per row, with its reason.

A stage writes a line for every row it received: `ON` if the row goes on to the next stage, else the state it ended in.
Joined over the stages, every row of every source has exactly one final state, or `join` fails.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ON = "on"
"""The state of a row that goes on to the next stage."""

STATES = {
    # state: the stage that can end a row in it, in the order of the chain
    "unreadable": "ingest",
    "excluded": "ingest",
    "quarantined": "validate",
    "duplicate": "curate",
    "contaminated": "curate",
    "not_in_coreset": "curate",
    "over_cap": "curate",
    "unbalanced": "curate",
    "not_in_dose": "curate",
    "held_out": "curate",
    "unused": "curate",
    "too_long": "render",
    "uncertified": "render",
    "ready": "render",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one stage did with one row; `reason` names the expectation, check, row or limit, and is empty for `ON`."""

    source: str
    row: int
    id: str
    task: str
    state: str
    reason: str = ""
    file: str = ""
    """Where it stands: an annotation file, below the source's folder. `ingest` alone says it, and `join` to every line."""


SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("task", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("file", pa.string()),
    ]
)


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write one stage's lines, as `write_table`."""
    written = list(lines)
    columns = {name: [getattr(line, name) for line in written] for name in SCHEMA.names}
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: Path, lines: pa.Table) -> None:
    """Write one stage's lines, a table of `SCHEMA`, sorted by source and row.

    Raises:
        AssertionError: a state is unknown, an ended row has no reason, or a row has two lines.
    """
    lines = lines.select(SCHEMA.names).cast(SCHEMA).sort_by([("source", "ascending"), ("row", "ascending")]).combine_chunks()
    known = set(pc.unique(lines["state"]).to_pylist())
    assert known <= {ON, *STATES}, f"unknown ledger states: {sorted(known - {ON, *STATES})}"
    bare = pc.and_(pc.not_equal(lines["state"], ON), pc.equal(lines["reason"], ""))
    assert not pc.any(bare).as_py(), f"a row ended without a reason: {lines.filter(bare).slice(0, 1).to_pylist()}"
    if len(lines) > 1:
        same = pc.and_(*(pc.equal(lines[name].slice(1), lines[name].slice(0, len(lines) - 1)) for name in ("source", "row")))
        assert not pc.any(same).as_py(), "a row has two lines in one stage's ledger"
    pq.write_table(lines, path)


def read(path: Path) -> list[Line]:
    """The lines of one stage's ledger."""
    return [Line(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def join(parts: Sequence[Sequence[Line]]) -> list[Line]:
    """One final line per row of the first part, from the parts of the stages in the order of the chain.

    Raises:
        ValueError: rows that went on are missing from the next part, or it has rows that did not go on.
    """
    final: dict[tuple[str, int], Line] = {}
    going: set[tuple[str, int]] | None = None
    for number, part in enumerate(parts):
        met = {(line.source, line.row): line for line in part}
        if going is not None and met.keys() != going:
            lost, strange = sorted(going - met.keys()), sorted(met.keys() - going)
            raise ValueError(
                f"the ledgers do not add up at part {number}: {len(lost)} rows lost (first {lost[:3]}), "
                f"{len(strange)} rows from nowhere (first {strange[:3]}); run `dvc repro` so that all are of one run"
            )
        final.update(met)
        going = {key for key, line in met.items() if line.state == ON}
    if going:
        raise ValueError(f"{len(going)} rows have no final state (first {sorted(going)[:3]})")
    files = {(line.source, line.row): line.file for part in parts[:1] for line in part}
    return [replace(final[key], file=files[key]) for key in sorted(final)]


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows of a source ended alike."""

    source: str
    state: str
    reason: str
    rows: int


def funnel(lines: Iterable[Line]) -> list[Count]:
    """Final lines counted by source, state and reason; states in the order of the chain, so that it reads as a funnel.

    Only the reason's name counts: `missing_image: cat.jpg` and `missing_image: dog.jpg` are two rows of `missing_image`.
    """
    order = {state: number for number, state in enumerate(STATES)}
    counts = Counter((line.source, line.state, reason_name(line.reason)) for line in lines)
    return [
        Count(source, state, reason, rows)
        for (source, state, reason), rows in sorted(counts.items(), key=lambda one: (one[0][0], order[one[0][1]], one[0][2]))
    ]


def reason_name(reason: str) -> str:
    """The name in a reason, which is a name alone or `name: detail`."""
    return reason.split(":", 1)[0]


def read_parts(ingested: Path, *stages: Path) -> list[list[Line]]:
    """The ledgers of `ingest` (one per source below `ingested`) and of the stages after it, ready to `join`."""
    # A name that begins with a dot is what a killed run left behind, half written.
    first = [line for path in sorted(ingested.glob("[!.]*/ledger.parquet")) for line in read(path)]
    return [first, *(read(stage / "ledger.parquet") for stage in stages)]
