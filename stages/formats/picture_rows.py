"""Pictures in a Parquet file, as the library `datasets` writes them: `{bytes, path}` in one column, a picture a row."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.formats.draft import UnreadableError
from stages.formats.files import cause, stamped
from stages.formats.parquet import BUFFER, ROWS_AT_ONCE

NAMES = ("path", "file_name", "filename", "name", "image_path", "image_id", "id")
"""Columns that name the picture of a row whose bytes have a column of their own; the first there is."""
BATCHES = 12
"""Of `ROWS_AT_ONCE` pictures, in memory at once."""


class PictureRows:
    """An open Parquet file. Several threads may read it; pictures in about its order are read once.

    A row's picture comes with its neighbours, and in a row group larger than `BATCHES` after all before it; so a source whose
    rows name pictures in no order at all is better served by a tar.
    """

    def __init__(self, path: Path, listed: Callable[[str], None]) -> None:
        """Open the file and call `listed` with the path of each picture in it; their numbers are in that order.

        Raises:
            ValueError: it is cut off, broken, no Parquet, or without a column of pictures.
        """
        try:
            self.file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no whole Parquet file: {error}; copy or download it again") from error
        try:
            self.stamped = stamped(path.stat())
            self.column, named = _columns(self.file.schema_arrow, path)
            for batch in self.file.iter_batches(columns=[named]):
                for name in _leaf(batch, named).to_pylist():
                    # What has no name is asked for by none.
                    listed("" if name is None else str(name))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self.file.close()
            raise ValueError(f"{path} is no whole Parquet file: {error}; copy or download it again") from error
        except BaseException:
            self.file.close()
            raise
        about = self.file.metadata
        self.starts = np.cumsum([0, *(about.row_group(group).num_rows for group in range(about.num_row_groups))])
        self.lock = threading.Lock()
        self.batches: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        self.coming: Iterator[tuple[tuple[int, int], pa.Array]] = iter(())
        self.next: tuple[int, int] = (-1, 0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, number: int, path: str, name: str, most: int) -> bytes:
        """The first `most` bytes of the picture of that number, which a row calls `name`.

        Raises:
            UnreadableError: there are none, or they cannot be read.
        """
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        batch, row = divmod(number - int(self.starts[group]), ROWS_AT_ONCE)
        try:
            with self.lock:
                content = self._batch(group, batch)[row].as_py()
        except (pa.ArrowException, OSError) as error:
            raise UnreadableError(f"image_not_readable: {name}: {cause(error)}") from error
        if content is None:
            raise UnreadableError(f"missing_image: {name} has no bytes in its Parquet file")
        return content[:most]

    def stamp(self, number: int) -> str | None:
        """A text that changes whenever the picture of that number may have."""
        return self.stamped and f"{self.stamped} {number}"

    def _batch(self, group: int, batch: int) -> pa.Array:
        wanted = (group, batch)
        if wanted not in self.batches:
            if self.next[0] != group or self.next[1] > batch:
                self.coming = self._all(group)
            while wanted not in self.batches:
                here, pictures = next(self.coming)
                self.next = (group, here[1] + 1)
                self.batches[here] = pictures
                if len(self.batches) > BATCHES:
                    self.batches.popitem(last=False)
        self.batches.move_to_end(wanted)
        return self.batches[wanted]

    def _all(self, group: int) -> Iterator[tuple[tuple[int, int], pa.Array]]:
        found = self.file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[self.column])
        return (((group, number), _leaf(batch, self.column)) for number, batch in enumerate(found))

    def close(self) -> None:
        """Nobody reads from it any more."""
        self.file.close()


def _columns(schema: pa.Schema, path: Path) -> tuple[str, str]:
    """The column of the pictures' bytes and that of their names; of a struct's field `struct.field`."""
    structs = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type.fields}
    ]
    plain = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    names = [name for name in NAMES if name in schema.names]
    if len(structs) == 1:
        return f"{structs[0]}.bytes", f"{structs[0]}.path"
    if not structs and len(plain) == 1 and names:
        return plain[0], names[0]
    raise ValueError(
        f"{path} has columns {', '.join(schema.names)}; wanted one of pictures ({{bytes, path}}), or one of bytes and one of "
        f"their names ({', '.join(NAMES)})"
    )


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    name, _, field = column.partition(".")
    # A struct that is null has no fields.
    return batch.column(0).flatten()[0] if field and name == batch.schema.names[0] else batch.column(0)
