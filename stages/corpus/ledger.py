"""The ledger: one line per source row and stage that met it, and from these one final state per row, with its reason.

A stage writes a line for every row it received: `ON` if the row goes on to the next stage, else the state it ended in.
Joined over the stages, every row of every source has exactly one final state, or `join` fails. A row that is `ready` for a
tuning stage is `trained` once that stage has run; what that stage saw again of the stage before stands in its ledger too, as
`ON`, because a replay ends no row.

Single lines are records, for stages and tests with few of them; whole ledgers are tables, for millions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ON = "on"
"""The state of a row that goes on to the next stage."""
CHAIN = ("ingest", "validate", "curate", "render")
"""The stages of the data half, in their order; each writes its part of the ledger."""
TUNING = ("connect", "train", "align")
"""What rows are ready for, in the order of the tuning stages; each writes its part of the ledger."""

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
    # of connect, train or align; the reason says which
    "unseen": "tuning",
    "trained": "tuning",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one stage did with one row; `reason` names the expectation, check, row or limit.

    It is empty where a row just goes on. A tuning stage has no ids: `join` takes them from `ingest`.
    """

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
KEY = ["source", "row"]
"""What names a row for ever."""
NAMES = ["source", "task", "state", "file"]
"""Columns of few values, each held once in memory and, by Parquet's dictionaries, in a file."""
ROWS_A_GROUP = 50_000
"""So that one row is found by the statistics of its group, and no other group is read."""


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
    pq.write_table(
        lines,
        path,
        row_group_size=ROWS_A_GROUP,
        # A seventh of the size of Parquet's defaults: rows follow each other, and ids, though all differ, begin alike.
        compression="zstd",
        use_dictionary=[*NAMES, "reason"],
        column_encoding={"row": "DELTA_BINARY_PACKED"},
    )


def read(path: Path) -> list[Line]:
    """The lines of one stage's ledger."""
    return [Line(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def table_of(lines: Iterable[Line]) -> pl.DataFrame:
    """A part of `lines`, as `read_parts` gives it."""
    written = list(lines)
    columns = {name: [getattr(line, name) for line in written] for name in SCHEMA.names}
    return pl.DataFrame(columns, schema=_TYPES)


def lines_of(table: pl.DataFrame) -> list[Line]:
    """The lines of a part or of the whole ledger."""
    return [Line(**row) for row in table.select(SCHEMA.names).to_dicts()]


_TYPES = {name: pl.Categorical() if name in NAMES else pl.Int64() if name == "row" else pl.String() for name in SCHEMA.names}


def read_parts(ingested: Path, *stages: Path) -> list[pl.DataFrame]:
    """The ledgers of `ingest` (one per source below `ingested`) and of the stages after it, ready to `join`.

    Columns of `SCHEMA`: all of the first part's; of the others' those that the first does not tell.
    """
    # A name that begins with a dot is what a killed run left behind, half written.
    first = [_read(path, SCHEMA.names) for path in sorted(ingested.glob("[!.]*/ledger.parquet"))]
    rest = [_read(stage / "ledger.parquet", [*KEY, "state", "reason"]) for stage in stages]
    return [pl.concat(first) if first else table_of([]), *rest]


def read_tuned(stages: Iterable[Path]) -> dict[str, pl.DataFrame]:
    """The ledgers of those tuning stages that have run, by the stage's name, which is its folder's."""
    paths = {stage.name: stage / "ledger.parquet" for stage in stages}
    return {name: _read(path, [*KEY, "state", "reason"]) for name, path in paths.items() if path.is_file()}


def _read(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    return pl.scan_parquet(path, glob=False).select(pl.col(name).cast(_TYPES[name]) for name in columns).collect()


def join(parts: Sequence[pl.DataFrame], tuned: Mapping[str, pl.DataFrame] | None = None, whole: bool = True) -> pl.DataFrame:
    """One final line per row of the first part, in its order, columns as in `SCHEMA`.

    Args:
        parts: of the stages in the order of the chain, from `ingest` on.
        tuned: of tuning stages by their names: a row that `render` left ready for one of them ends as that one says.
        whole: whether the last part is of the chain's last stage; otherwise rows may be on their way, with the state `ON`.

    Raises:
        ValueError: rows that went on are missing from the next part, or it has rows that did not go on, or one twice, or a
            row went on behind the last stage.
    """
    if not parts:
        return table_of([])
    ended = []
    going = parts[0].select(KEY).unique(maintain_order=True)
    for number, part in enumerate(parts):
        _check_rows(CHAIN[number], going, part.select(KEY))
        ended.append(part.filter(pl.col("state") != ON).select(*KEY, "state", "reason"))
        going = part.filter(pl.col("state") == ON).select(KEY)
    if whole and len(going):
        raise ValueError(f"{len(going)} rows have no final state (first {_first(going)})")
    for stage, part in (tuned or {}).items():
        own = part.filter(pl.col("state") != ON).select(*KEY, "state", "reason")
        waiting = (pl.col("state") == "ready") & (pl.col("reason") == stage)
        _check_rows(stage, ended[-1].filter(waiting).select(KEY), own.select(KEY))
        ended[-1] = pl.concat([ended[-1].filter(~waiting), own])
    ends = parts[0].select(KEY).join(pl.concat(ended), on=KEY, how="left", maintain_order="left")
    assert len(ends) == len(parts[0]), "each row has one line in each part, and ends once"
    return parts[0].with_columns(ends["state"].fill_null(ON), ends["reason"].fill_null(""))


def _check_rows(stage: str, going: pl.DataFrame, met: pl.DataFrame) -> None:
    """That `stage` met the rows in `going`, each once."""
    if going.equals(met):  # as it is where all is well, for ledgers are sorted
        return
    lost, strange = going.join(met, on=KEY, how="anti"), met.join(going, on=KEY, how="anti")
    again = met.filter(met.is_duplicated())
    if len(lost) or len(strange) or len(again):
        raise ValueError(
            f"the ledgers do not add up at {stage}: {len(lost)} rows lost (first {_first(lost)}), {len(strange)} rows from "
            f"nowhere (first {_first(strange)}), {len(again)} lines of rows that have several (first {_first(again)}); run "
            "`dvc repro` so that all are of one run"
        )


def _first(keys: pl.DataFrame) -> list[str]:
    found = keys.with_columns(pl.col("source").cast(pl.String)).sort(KEY).head(3)
    return [f"{source}:{row}" for source, row in found.rows()]


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows of a source ended alike."""

    source: str
    state: str
    reason: str
    rows: int


def funnel(final: pl.DataFrame) -> list[Count]:
    """Final lines counted by source, state and reason; states in the order of the chain, so that it reads as a funnel.

    Only the reason's name counts: `missing_image: cat.jpg` and `missing_image: dog.jpg` are two rows of `missing_image`.
    """
    counted = final.group_by("source", "state", reason_names().alias("reason")).agg(rows=pl.len())
    counts = [Count(**row) for row in counted.to_dicts()]
    return sorted(counts, key=lambda one: (one.source, order_of(one.state), one.reason))


def order_of(state: str) -> int:
    """A state's place in the chain; rows on their way come last."""
    return [*STATES, ON].index(state)


def reason_name(reason: str) -> str:
    """The name in a reason, which is a name alone or `name: detail`."""
    return reason.split(":", 1)[0]


def reason_names() -> pl.Expr:
    """`reason_name` of a table's column `reason`."""
    return pl.col("reason").str.extract("^([^:]*)")
