"""Read one source, in its upstream format, into examples, pictures and a ledger; no row is lost, whatever is wrong with it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, field_validator, model_validator

from stages.corpus import example, ledger, shards
from stages.corpus.images import ImageWriter
from stages.corpus.kept import Kept
from stages.formats import FORMATS
from stages.formats.annotations import read_names, read_tasks
from stages.formats.hub import read_hub
from stages.formats.pictures import open_pictures
from stages.formats.reading import Block, Reader
from stages.formats.shelf import Shelf
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.memo import Memo
from stages.running.progress import progress
from stages.running.section import Section


class Hub(Section):
    """A data set of the Hugging Face hub, or of a mirror of it."""

    id: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")]
    """Its name there, OWNER/NAME."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The commit, 40 hex digits; a branch name could mean other rows tomorrow."""
    name: str | None
    """Which of its configurations; null where it has one."""
    split: str
    """Which of its splits: train, most often."""


class Source(Section):
    """A named collection in one upstream format."""

    format: str
    """The upstream format: a name in `stages/formats/`."""
    folder: str
    """Where the source lies; nothing outside of it is read, but for the hub's rows. With `hub` too it must be there: pictures,
    instructions and exclusions lie in it."""
    annotations: str | None
    """The file of rows, in the folder: `.json` (one list), `.jsonl` (a row a line), `.parquet`, `.arrow`, `.tar` (WebDataset's
    shard), or a folder that `save_to_disk` of `datasets` made; `qa/*.jsonl` is every file it fits. Null with `hub`."""
    hub: Hub | None
    """Where the rows are read from instead, a few at a time; null with `annotations`."""
    instructions: str | None
    """The file of instructions per task, in the folder; null where rows carry their own."""
    images: str | None
    """The pictures, in the folder: a folder, a zip or a tar; null where rows bring theirs along, or have none."""
    origin: Literal["human", "synthesized"]
    """Who wrote the answers."""
    licence: str | None
    """What the source may be used for, by its SPDX name or in plain words; null where nobody said."""
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None
    """What it is written in, as BCP 47 names it (`en`, `zh-Hans`, `mul`), where its rows do not say; null where nobody said."""
    exclude: str | None
    """A file, in the folder, of what must not be read, one a line: ids of rows, or pictures (a name in full, or without folder
    and suffix); null for none."""

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"is no known format; known: {', '.join(sorted(FORMATS))}")
        return name

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if (self.annotations is None) == (self.hub is None):
            raise ValueError("rows come from annotations or from hub: give one of them, and null for the other")
        return self


class Params(Section):
    """What `ingest` reads."""

    sources: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Source]
    """Every source by its name, of letters, digits, dashes and underscores; the stage runs once for each."""
    shard_rows: PositiveInt
    """Rows of a source in one shard of examples; all stages after it work on a shard at a time."""
    shard_mib: PositiveInt
    """Size of an image shard, in MiB."""


def ingest(params: Params, source: str, folder: Path, ingested: Out) -> None:
    """Read `source` from `folder`.

    On this machine, whatever `compute.engine` says: the files lie here, many in archives that are read in place, and to hand a
    row over costs about what reading it does. Pictures are looked at by threads, as many as `compute.processes` and the cores.
    """
    about = _source(params, source)
    tasks = read_tasks(_below(folder, about.instructions)) if about.instructions else {}
    excluded = read_names(_below(folder, about.exclude)) if about.exclude else frozenset()
    declared = {name: asdict(task) for name, task in tasks.items()}
    lines = [ledger.SCHEMA.empty_table()]
    with (
        # First, for one run at a time has it: what is kept of the source's pictures is another's to forget, too.
        Memo(f"ingest.{source}", about.format, declared, sorted(excluded)) as memo,
        open_pictures(_below(folder, about.images) if about.images else None) as pictures,
        ImageWriter(ingested, params.shard_mib, Kept(WORK / "pictures" / source, pictures.stamp)) as store,
        progress((), f"ingest {source}") as bar,
        _Shards(ingested / "examples", params.shard_rows) as examples,
    ):
        shelf = Shelf(pictures, store)
        for block in _blocks(folder, about, Reader(FORMATS[about.format], tasks, source, excluded), memo):
            rows = _numbered(shelf.place(block.rows, block.brought), source, examples.ends)
            examples.add(_examples(rows, about), len(rows))
            lines.append(rows.select(ledger.SCHEMA.names))
            bar.update(len(rows))
    ledger.write_table(ingested / "ledger.parquet", pa.concat_tables(lines))
    _write_json(ingested / "instructions.json", declared)
    _write_json(ingested / "source.json", about.model_dump(include={"format", "origin", "licence", "language", "hub"}))


def _source(params: Params, name: str) -> Source:
    if name not in params.sources:
        raise ValueError(f"params.yaml, ingest.sources has no {name!r}; it has {', '.join(sorted(params.sources))}")
    return params.sources[name]


def _below(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the source's folder {folder}; name a file in it (params.yaml, ingest.sources)")
    # The folder itself may be a link; what is named in it may be one only while it stays below it.
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise ValueError(
            f"{name!r} is a link that leads out of the source's folder {folder}; put what it leads to in the folder, or name "
            "a file in it (params.yaml, ingest.sources)"
        )
    return folder / path


def _blocks(folder: Path, about: Source, reader: Reader, memo: Memo) -> Iterator[Block]:
    """Every row of the source, some at a time; a row's number is its place here."""
    if about.hub:
        hub = about.hub
        rows = read_hub(hub.id, hub.revision, hub.name, hub.split)
        yield from reader.blocks_of(rows, f"{hub.id}@{hub.revision}/{hub.split}")
        return
    assert about.annotations is not None, "checked when the params were read"
    for file in _files(folder, about.annotations):
        yield from reader.blocks(_below(folder, file), file, memo)


def _files(folder: Path, name: str) -> list[str]:
    """The file of that name in the folder; or all that it fits as a pattern, hidden ones apart, in the order of their paths."""
    if not set(name) & set("*?[") or _below(folder, name).is_file():
        return [PurePosixPath(name).as_posix()]
    try:
        found = [path for path in folder.glob(name) if not path.is_dir()]
    except ValueError as error:
        raise ValueError(f"{name!r} is no pattern: {error} (params.yaml, ingest.sources)") from error
    files = sorted(path.relative_to(folder).as_posix() for path in found)
    # As in a shell. What another system leaves beside its files (`._ocr_en.jsonl`) is not rows.
    files = [file for file in files if not any(part.startswith(".") for part in file.split("/"))]
    if not files:
        raise ValueError(f"no file in {folder} fits {name!r}; it comes from this source's entry in params.yaml, section ingest")
    return files


def _numbered(rows: pa.Table, source: str, first: int) -> pa.Table:
    """`rows` with the source's name and their numbers in it."""
    numbers = pa.array(range(first, first + len(rows)), pa.int64())
    return rows.append_column("source", pa.repeat(pa.scalar(source), len(rows))).append_column("row", numbers)


def _examples(rows: pa.Table, about: Source) -> pa.Table:
    """The examples of the rows that go on, a table of `example.SCHEMA`."""
    rows = rows.filter(pc.equal(rows["state"], ledger.ON))
    language = pc.if_else(pc.equal(rows["language"], ""), about.language or "", rows["language"])
    rows = rows.drop_columns(["language"]).append_column("language", language)
    return rows.append_column("origin", pa.repeat(pa.scalar(about.origin), len(rows))).select(example.SCHEMA.names)


class _Shards:
    """Examples on their way into shards, of which only the unfinished one is held."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.rows = rows
        self.waiting = example.SCHEMA.empty_table()
        self.ends = self.written = 0
        """The number of the next row, and of the next shard."""

    def add(self, examples: pa.Table, rows: int) -> None:
        """Add what came of the next `rows` rows of the source."""
        self.ends += rows
        self.waiting = pa.concat_tables([self.waiting, examples])
        while self.ends >= (self.written + 1) * self.rows:
            self._write()

    def _write(self) -> None:
        limit = (self.written + 1) * self.rows
        within = int(np.searchsorted(self.waiting["row"].to_numpy(), limit))
        example.write_table(self.folder / shards.name(self.written), self.waiting.slice(0, within))
        self.waiting = self.waiting.slice(within)
        self.written += 1

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A source without rows has a shard too, an empty one.
        if kind is None and (self.ends > self.written * self.rows or not self.written):
            self._write()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command.run(ingest)
