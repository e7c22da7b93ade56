"""Rows of a Parquet file, a few at a time: they may hold their pictures, and a file of them is larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.formats.draft import UnreadableError

ROWS_AT_ONCE = 16
BUFFER = 2**20
"""Bytes of a column read at once. Without a buffer Arrow takes a row group's whole column, and some files are one group; with
`pre_buffer`, which fetches ahead for stores far away, it keeps the whole file."""


def read_parquet(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file, in its order; a row whose text is no text is yielded as `UnreadableError`.

    Raises:
        ValueError: the file is cut off, broken, or no Parquet.
    """
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from rows_of(batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file: {error}; copy or download it again") from error


def rows_of(batch: pa.RecordBatch) -> list[Any]:
    """The rows of a batch; one that Python cannot hold is `UnreadableError`, and ends alone."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            # Parquet says that bytes are UTF-8 and does not look; so it is with dates.
            name = "not_unicode" if isinstance(error, UnicodeDecodeError) else "not_readable"
            return [UnreadableError(f"{name}: {error}")]
        return [row for number in range(len(batch)) for row in rows_of(batch.slice(number, 1))]
