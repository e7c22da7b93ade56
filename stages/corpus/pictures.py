"""Stored pictures, read: which stores there are, what looks at their pictures found, where each lies, and its bytes.

`ImageWriter` writes them. Two others open shards themselves: `Kept`, because the shards of earlier runs lie in no store, and
the export's `Album`, which reads by place and not by sha256, in an order in which it comes back to the same groups of rows.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards
from stages.corpus.images import SCHEMA

GROUPS_HELD = 4
"""Groups of rows that `Pictures` keeps in memory; pictures that are asked for in the order of their places need one."""


def stores(ingested: Path) -> list[Path]:
    """The image stores of all sources below the `ingest` stage's folder, in the sources' order."""
    # A name that begins with a dot is what a killed run left behind, half written.
    return sorted(path.parent for path in ingested.glob("[!.]*/images"))


def shards_of(folders: Sequence[Path]) -> list[Path]:
    """The shards of the stores in `folders`, in the stores' order."""
    return [shard for folder in folders for shard in shards.of(folder / "images")]


def read_looks(folders: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """What a look at each picture of the stores in `folders` found: `columns` of `images.SCHEMA`, `sha256` among them.

    A row each, in the stores' order; no picture is read.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    tables = [pq.read_table(shard, columns=schema.names) for shard in shards_of(folders)]
    # A picture that several stores have was found the same by each.
    distinct = pl.DataFrame(pa.concat_tables(tables or [schema.empty_table()])).unique(
        "sha256", keep="first", maintain_order=True
    )
    return distinct.to_arrow().cast(schema)


def places(folders: Sequence[Path], wanted: pl.Series) -> pl.DataFrame:
    """[sha256, shard, group]: where each `wanted` picture lies first: in which of `shards_of`, and in which group of its rows.

    Both count from 0, int64. A picture that is in no store has no line.
    """
    asked = pl.DataFrame({"sha256": wanted}, schema={"sha256": pl.String})
    tables = [pl.DataFrame(schema={"sha256": pl.String, "shard": pl.Int64, "group": pl.Int64})]
    for number, shard in enumerate(shards_of(folders) if len(wanted) else ()):
        with pq.ParquetFile(shard) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            held = pl.DataFrame(file.read(columns=["sha256"]))
        group = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        held = held.with_columns(shard=pl.lit(number, pl.Int64), group=pl.Series(group))
        tables.append(held.join(asked, on="sha256", how="semi", maintain_order="left"))
    return pl.concat(tables).unique("sha256", keep="first", maintain_order=True)


def read_rows(files: Sequence[Path], columns: Sequence[str], wanted: Set[str] | None = None) -> Iterator[pa.Table]:
    """`columns` of each picture in `files` once, of `wanted` only if given; some rows at a time, in their order.

    `files` are shards of stores. Of the pictures nothing is read but groups of rows in which one is wanted, and of no shard
    anything once all are found; one group is in memory.
    """
    seen: set[str] = set()
    for shard in files:
        if wanted is not None and len(seen) == len(wanted):
            return
        with pq.ParquetFile(shard) as file:
            # Compared in Python, for Arrow would put all that is wanted into a table of its own for every shard.
            digests = file.read(columns=["sha256"])["sha256"].to_pylist()
            first = 0
            for group in range(file.num_row_groups):
                here = digests[first : first + file.metadata.row_group(group).num_rows]
                first += len(here)
                met = [digest not in seen and (wanted is None or digest in wanted) for digest in here]
                if any(met):
                    seen.update(digest for digest, is_met in zip(here, met, strict=True) if is_met)
                    rows = file.read_row_group(group, columns=list(columns))
                    yield rows if all(met) else rows.filter(pa.array(met))


def read_images(folders: Sequence[Path], wanted: Set[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """(sha256, bytes) of each image of the stores in `folders` once, of `wanted` only if given; in the stores' order."""
    for rows in read_rows(shards_of(folders), ["sha256", "bytes"], wanted):
        for digest, content in zip(rows["sha256"].to_pylist(), rows["bytes"], strict=True):
            yield digest, content.as_py()


class Pictures:
    """Stored pictures one at a time, by sha256, in any order: where each lies is known, and read when it is asked for.

    Memory holds a place for each, and `GROUPS_HELD` groups of rows.
    """

    def __init__(self, files: Sequence[Path], places: dict[str, tuple[int, int]]) -> None:
        """`files`: shards of stores. `places`: of each picture in which of them it lies, and in which group of its rows."""
        self.files, self.places = files, places
        self._held: OrderedDict[tuple[int, int], dict[str, pa.Scalar]] = OrderedDict()

    @classmethod
    def stored(cls, folders: Sequence[Path], wanted: Collection[str]) -> "Pictures":
        """Those of `wanted` that lie in the stores in `folders`."""
        found = places(folders, pl.Series(sorted(wanted), dtype=pl.String))
        spots = zip(found["shard"].to_list(), found["group"].to_list(), strict=True)
        return cls(shards_of(folders), dict(zip(found["sha256"].to_list(), spots, strict=True)))

    def only(self, wanted: Collection[str]) -> "Pictures":
        """A few of them, for a process of its own."""
        return Pictures(self.files, {digest: self.places[digest] for digest in wanted})

    def __getitem__(self, digest: str) -> bytes:
        """The bytes of the picture, as they came."""
        place = self.places[digest]
        if place not in self._held:
            with pq.ParquetFile(self.files[place[0]]) as file:
                rows = file.read_row_group(place[1], columns=["sha256", "bytes"])
            self._held[place] = dict(zip(rows["sha256"].to_pylist(), rows["bytes"], strict=True))
            while len(self._held) > GROUPS_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(place)
        content: bytes = self._held[place][digest].as_py()
        return content
