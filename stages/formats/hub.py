"""Rows by way of the library `datasets`: of its hub at a pinned commit, or of what it saved on a disk.

They are read as Arrow, a few at a time, so that no picture is decoded on the way: one is `{bytes, path}`, as in Parquet.
No code that came with a data set is run: the library has none that would.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.formats.parquet import ROWS_AT_ONCE, rows_of


def read_hub(id: str, revision: str, name: str | None, split: str) -> Iterator[Any]:
    """The rows of one split of a data set on the hub, in its order, as they come over the network.

    Raises:
        ValueError: the hub cannot be reached, or has no such data set, revision, configuration or split; or it is not readable.
    """

    def opened() -> Any:
        from datasets import load_dataset

        return load_dataset(id, name, split=split, revision=revision, streaming=True)

    shown = f"{id!r} (revision {revision}, configuration {name or 'of its own'}, split {split!r})"
    yield from _rows(
        opened,
        f"the hub's data set {shown} cannot be read",
        "look whether the network and the name are right (params.yaml, ingest.sources), or download its files, and name them "
        "under `annotations`",
    )


def read_saved(path: Path) -> Iterator[Any]:
    """The rows of a folder that `save_to_disk` made.

    Raises:
        ValueError: it is none, holds several splits, or is broken.
    """
    if (path / "dataset_dict.json").is_file():
        raise ValueError(f"{path} holds several splits; name one of them, as {path.name}/train (params.yaml, ingest.sources)")
    if not (path / "state.json").is_file():
        raise ValueError(
            f"{path} is a folder, and none that `save_to_disk` made; name a file of rows, or files by a pattern, as "
            f"{path.name}/*.json (params.yaml, ingest.sources)"
        )

    def opened() -> Any:
        from datasets import load_from_disk

        return load_from_disk(path)

    yield from _rows(opened, f"{path} is no whole folder of `save_to_disk`", "copy or save it again")


def read_arrow(path: Path) -> Iterator[Any]:
    """The rows of an Arrow file, as a stream or with its places at its end.

    Raises:
        ValueError: the file is cut off, broken, or no Arrow.
    """
    try:
        with pa.memory_map(str(path)) as file:
            try:
                batches = iter(pa.ipc.open_stream(file))
            except pa.ArrowInvalid:
                opened = pa.ipc.open_file(file)
                batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
            for batch in batches:
                yield from _few(batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Arrow file: {error}; copy or download it again") from error


def _rows(opened: Callable[[], Any], what: str, hint: str) -> Iterator[Any]:
    try:
        for table in opened().with_format("arrow").iter(ROWS_AT_ONCE):
            for batch in table.to_batches():
                yield from _few(batch)
    except GeneratorExit:
        raise
    except Exception as error:
        # What its many parts raise has no common kind: of the network, of the file system, of Arrow, and its own.
        raise ValueError(f"{what}: {type(error).__name__}: {error}; {hint}") from error


def _few(batch: pa.RecordBatch) -> Iterator[Any]:
    for first in range(0, len(batch), ROWS_AT_ONCE):
        yield from rows_of(batch.slice(first, ROWS_AT_ONCE))
