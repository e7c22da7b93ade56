"""The rows of a tuning stage in the order of their pictures, whatever the order they were chosen in."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import example, shards
from stages.corpus.example import Example, Turn
from stages.corpus.export.album import Album
from stages.corpus.export.forms import FIELD_OF, LABELS, Form

ROWS_A_GROUP = 256
BYTES_A_GROUP = 64 * 2**20
"""Pictures in a group of rows, about; what a reader holds at once."""
ROWS_SORTED = 50_000
"""Conversations held at once while they are put into the order of their pictures."""


def conversations(
    ready: pl.DataFrame, selected: Path, album: Album, scratch: Path, form: Form, ask: Callable[[Example], tuple[Turn, ...]]
) -> Iterator[pa.Table]:
    """The `ready` rows among those `selected` for their stage, a group at a time, in the order of their pictures.

    Columns: the labels, the form's, and `places`. Text alone comes last. The rows of all shards are first dealt out to
    files of `ROWS_SORTED` rows below `scratch`, by their place in the order.

    Raises:
        ValueError: a row was not selected, or is there twice.
    """
    order = _order(ready, selected, album)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        _deal(order, selected, Path(folder), form, ask)
        for dealt in shards.of(Path(folder)):
            rows = pq.read_table(dealt).sort_by("rank")
            yield from _groups(rows, album)


ORDER: dict[str, Any] = {"shard": pl.Int64, "line": pl.Int64, "source": pl.String, "row": pl.Int64, "places": pl.List(pl.Int64)}


def _order(ready: pl.DataFrame, selected: Path, album: Album) -> pl.DataFrame:
    """`shard`, `line` in it, `places` and `rank` of every ready row, in the order of the shards."""
    parts = []
    for number, shard in enumerate(shards.of(selected)):
        keys = pl.read_parquet(shard, columns=["source", "row", "images"], glob=False).with_row_index("line")
        keys = keys.join(ready, on=["source", "row"], how="semi", maintain_order="left")
        keys = keys.with_columns(shard=pl.lit(number), places=album.find(keys["images"]))
        parts.append(keys.select(pl.col(name).cast(kind) for name, kind in ORDER.items()))
    found = pl.concat([pl.DataFrame(schema=ORDER), *parts])
    if len(found) != len(ready) or found.select("source", "row").is_duplicated().any():
        raise ValueError(
            f"of {len(ready)} rows that render's ledger says are ready, {len(found)} are in {selected}; run `dvc repro` so "
            "that both are of one run"
        )
    first = pl.col("places").list.first().fill_null(int(album.firsts[-1]))
    best = found.select(pl.arg_sort_by(first, pl.col("places").list.last(), "source", "row")).to_series().to_numpy()
    rank = np.empty(len(found), dtype=np.int64)
    rank[best] = np.arange(len(found))
    return found.with_columns(rank=pl.Series(rank))


def _deal(order: pl.DataFrame, selected: Path, folder: Path, form: Form, ask: Callable[[Example], tuple[Turn, ...]]) -> None:
    """Write the conversations in `order` to files of `ROWS_SORTED` rows in `folder`."""
    schema = pa.schema([("rank", pa.int64()), ("places", pa.list_(pa.int64())), *LABELS.items(), (form.column, form.talk)])
    with contextlib.ExitStack() as open_files:
        files: dict[int, pq.ParquetWriter] = {}
        for number, shard in enumerate(shards.of(selected)):
            here = order.filter(pl.col("shard") == number)
            rows = pq.read_table(shard, columns=example.SCHEMA.names).take(here["line"].to_arrow())
            table = _written(example.examples_of(rows), here, form, ask, schema)
            dealt = here["rank"].to_numpy() // ROWS_SORTED
            for part in np.unique(dealt).tolist():
                if part not in files:
                    path = folder / shards.name(part)
                    files[part] = open_files.enter_context(pq.ParquetWriter(path, schema, compression="none"))
                files[part].write_table(table.filter(pa.array(dealt == part)))


def _written(
    rows: Sequence[Example], order: pl.DataFrame, form: Form, ask: Callable[[Example], tuple[Turn, ...]], schema: pa.Schema
) -> pa.Table:
    columns = {
        "rank": order["rank"].to_arrow(),
        "places": order["places"].to_arrow(),
        **{name: [getattr(row, field) for row in rows] for name, field in FIELD_OF.items()},
        form.column: [form.write(ask(row)) for row in rows],
    }
    return pa.table({name: pa.array(columns[name]).cast(schema.field(name).type) for name in schema.names}, schema=schema)


def _groups(rows: pa.Table, album: Album) -> Iterator[pa.Table]:
    """`rows` a group at a time, whose pictures fit into `BYTES_A_GROUP`, or are one row's."""
    lists = rows["places"].combine_chunks()
    ends = np.cumsum(np.concatenate([[0.0], album.size(lists.flatten().to_numpy())]))
    offsets = lists.offsets.to_numpy()
    first = 0
    while first < len(rows):
        fits = int(np.searchsorted(ends[offsets], ends[offsets[first]] + BYTES_A_GROUP, side="right")) - 1
        last = max(first + 1, min(fits, first + ROWS_A_GROUP, len(rows)))
        yield rows.slice(first, last - first)
        first = last
