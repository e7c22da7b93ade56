"""The Parquet files of an export."""

from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards
from stages.corpus.export.destination import Destination
from stages.corpus.export.forms import LABELS
from stages.corpus.export.order import BYTES_A_GROUP

PICTURES = "images.list.element.bytes"
"""The column of the pictures' bytes, as Parquet names it."""


class Shards:
    """The Parquet files of one stage, a new one each time pictures of `shard_bytes` are in it."""

    def __init__(self, place: Destination, stage: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.place, self.stage, self.schema, self.shard_bytes = place, stage, schema, shard_bytes
        self.number, self.bytes = 0, 0
        self.file: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table, size: int) -> None:
        """Write `rows` as one group; `size`: what their pictures take, each counted once."""
        if self.file is None:
            self.file = self._opened()
        self.file.write_table(rows, row_group_size=max(len(rows), 1))
        self.bytes += size
        if self.bytes >= self.shard_bytes:
            self._close()

    def _name(self) -> str:
        return f"{self.stage}/{shards.name(self.number)}"

    def _opened(self) -> pq.ParquetWriter:
        path = self.place.folder / self._name()
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [PICTURES, "images.list.element.path", *LABELS]
        columns += [
            f"{name}.list.element.{field.name}"
            for name in self.schema.names[1:2]
            for field in self.schema.field(name).type.value_type
        ]
        return pq.ParquetWriter(
            path,
            self.schema,
            # Pictures are compressed already. Rows about one picture share its bytes in the dictionary, which must hold them.
            compression={name: "none" if name == PICTURES else "zstd" for name in columns},
            use_dictionary=True,
            dictionary_pagesize_limit=4 * BYTES_A_GROUP,
            write_statistics=list(LABELS),
        )

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.place.put(self._name())
            self.number, self.bytes, self.file = self.number + 1, 0, None

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            # A stage without rows has a file too, so that whoever reads it finds its columns.
            if self.file is None and not self.number:
                self.file = self._opened()
            self._close()
        elif self.file is not None:
            self.file.close()
