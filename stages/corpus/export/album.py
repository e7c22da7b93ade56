"""The pictures of all image stores by their place in them, for rows that are written in the order of the stores."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.corpus.export.forms import IMAGES
from stages.corpus.pictures import shards_of, stores

GROUPS_HELD = 8
"""Groups of a picture store kept for rows of several pictures that lie apart."""


class Album:
    """The pictures of all image stores, by their place: a number that grows in the order of the stores."""

    def __init__(self, ingested: Path) -> None:
        self.groups: list[tuple[Path, int]] = []
        """A file, and a group of rows in it."""
        firsts, sizes = [0], []
        digests = []
        for shard in shards_of(stores(ingested)):
            with pq.ParquetFile(shard) as file:
                column = file.schema_arrow.get_field_index("bytes")
                for number in range(file.metadata.num_row_groups):
                    group = file.metadata.row_group(number)
                    self.groups.append((shard, number))
                    firsts.append(firsts[-1] + group.num_rows)
                    sizes.append(group.column(column).total_uncompressed_size / max(group.num_rows, 1))
                digests.append(pl.Series("images", file.read(["sha256"])["sha256"], dtype=pl.String))
        self.firsts, self.sizes = np.array(firsts), np.array(sizes)
        known = pl.concat(digests) if digests else pl.Series("images", [], dtype=pl.String)
        # Two sources may hold one picture; the first serves for both.
        self.places = pl.DataFrame({"images": known, "place": np.arange(len(known))}).unique("images", keep="first")
        self.held: OrderedDict[int, pa.Array] = OrderedDict()

    def find(self, images: pl.Series) -> pl.Series:
        """Of each row's list of sha256 the list of places, int64.

        Raises:
            ValueError: a picture is in no store.
        """
        flat = pl.DataFrame({"line": np.arange(len(images)), "images": images}).explode("images").drop_nulls()
        found = flat.join(self.places, on="images", how="left", maintain_order="left")
        if lost := found["place"].null_count():
            first = found.filter(pl.col("place").is_null())["images"][0]
            raise ValueError(
                f"{lost} pictures are in no image store (first {first}); run `dvc repro` so that all is of one run"
            )
        lists = found.group_by("line", maintain_order=True).agg("place")
        lines = pl.DataFrame({"line": np.arange(len(images))}).join(lists, on="line", how="left", maintain_order="left")
        return lines["place"].fill_null([]).cast(pl.List(pl.Int64))

    def size(self, places: np.ndarray) -> np.ndarray:
        """About how many bytes each has: as many as pictures of its group have on average."""
        return self.sizes[self._group(places)] if len(places) else np.zeros(0)

    def read(self, places: np.ndarray) -> pa.BinaryArray:
        """The bytes of the pictures at `places`."""
        groups = np.unique(self._group(places)).tolist()
        parts = [self._read(group) for group in groups]
        while len(self.held) > max(GROUPS_HELD, len(groups)):
            self.held.popitem(last=False)
        if not parts:
            return pa.array([], pa.binary())
        # Where each group begins in the parts put together, less where it begins among all.
        begins = np.cumsum([0, *map(len, parts[:-1])]) - self.firsts[groups]
        return pa.concat_arrays(parts).take(pa.array(places + begins[np.searchsorted(groups, self._group(places))]))

    def _group(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.firsts, places, side="right") - 1

    def _read(self, group: int) -> pa.Array:
        if group not in self.held:
            path, number = self.groups[group]
            with pq.ParquetFile(path) as file:
                self.held[group] = file.read_row_group(number, columns=["bytes"])["bytes"].combine_chunks()
        self.held.move_to_end(group)
        return self.held[group]

    def shown(self, rows: pa.Table, schema: pa.Schema) -> tuple[pa.Table, int]:
        """`rows` with their pictures instead of the places of these, as `schema` says; and the pictures' bytes, each once."""
        lists = rows["places"].combine_chunks()
        places = lists.flatten().to_numpy()
        distinct, of = np.unique(places, return_inverse=True)
        content = self.read(distinct)
        size = int(pc.sum(pc.binary_length(content)).as_py() or 0)
        structs = pa.StructArray.from_arrays(
            [content.take(pa.array(of)), pa.nulls(len(of), pa.string())], fields=list(IMAGES.value_type)
        )
        offsets = pc.subtract(lists.offsets, lists.offsets[0])
        columns = {
            **{name: rows[name] for name in schema.names if name != "images"},
            "images": pa.ListArray.from_arrays(offsets, structs),
        }
        return pa.table([columns[name] for name in schema.names], schema=schema), size
