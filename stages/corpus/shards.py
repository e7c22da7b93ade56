"""Tables larger than one file: a folder of Parquet files, whose names have the order of their rows.

A shard is what one process works on at a time, what is done again when a row of it changes, and what memory holds of a
corpus of millions. Which rows share a shard depends on their numbers alone, so rows added at the end leave all before them be.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def of(folder: Path) -> list[Path]:
    """The shards in `folder`, in their order; none if there is no such folder."""
    # A name that begins with a dot is what a killed run left behind, half written.
    return sorted(folder.glob("[!.]*.parquet"))


def name(number: int, source: str = "") -> str:
    """The file name of a shard: of a folder that holds one source's, or of one that holds several'."""
    return f"{source}-{number:05d}.parquet" if source else f"{number:05d}.parquet"


def tables(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """One table a shard, of `columns` only if given; none is held longer than the caller holds it."""
    for shard in of(folder):
        yield pq.read_table(shard, columns=columns)


def rows(folder: Path) -> int:
    """How many rows the shards in `folder` have together, from what their ends say."""
    return sum(pq.read_metadata(shard).num_rows for shard in of(folder))
