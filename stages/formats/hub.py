"""Rows by way of the library `datasets`: of its hub at a pinned commit, or of what it saved on a disk.

They are read as Arrow, a few at a time, so that no picture is decoded on the way: one is `{bytes, path}`, as in Parquet.
No code that came with a data set is run: the library has none that would.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.formats.parquet import ROWS_AT_ONCE, rows_of


def read_hub(id: str, revision: str, name: str | None, split: str) -> Iterator[Any]:
    """The rows of one split of a data set on the hub, in its order, as they come over the network.

    Raises:
        ValueError: the hub cannot be reached, or has no such data set, revision, configuration or split; or it is not readable.
    """

    if Path(id).exists():
        # The library would take what lies here, and no commit is pinned of that.
        raise ValueError(
            f"{id!r} is to come from the hub, but {Path(id).absolute()} is there too; run elsewhere, or rename that"
        )

    def opened() -> Any:
        from datasets import load_dataset_builder

        builder = load_dataset_builder(id, name, revision=revision)
        files = [file for files in (builder.config.data_files or {}).values() for file in files]
        check_files(map(str, files), revision)
        return builder.as_streaming_dataset(split=split)

    shown = f"{id!r} (revision {revision}, configuration {name or 'of its own'}, split {split!r})"
    yield from _rows(
        opened,
        f"the hub's data set {shown} cannot be read",
        "look whether the network and the name are right (params.yaml, ingest.sources), or download its files, and name them "
        "under `annotations`",
    )


def check_files(files: Iterable[str], revision: str) -> None:
    """Refuse a data set whose card names files that are not of its own pinned commit: of this disk, or of any address.

    Raises:
        ValueError: with the first of them.
    """
    for file in files:
        if not file.startswith("hf://datasets/") or f"@{revision}/" not in file or ".." in file.split("/"):
            raise ValueError(f"it names {file!r} as a file of its rows, which is not of the commit {revision}")


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

    for name in _files(path):
        if not (path / name).resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{path} names {name!r} as its file of rows, which leads out of it; save it anew")

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


def _files(path: Path) -> list[str]:
    """The files of rows of a saved folder, as it names them itself."""
    try:
        return [str(one["filename"]) for one in json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'state.json'} does not say which files have the rows; copy or save it again") from error


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
