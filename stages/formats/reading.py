"""A source's rows as drafts, in blocks of columns: all that hangs on the rows alone, before any picture is looked up.

Text is read in blocks that begin where the last one ended. What a block gave is kept with the digest of its bytes, so that a
later run which finds the same bytes there goes on behind them: of a file that grew it reads what is new.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import example, ledger
from stages.formats import Format
from stages.formats.annotations import read_rows, text_of
from stages.formats.draft import Draft, Task, UnreadableError
from stages.running.memo import Memo

ENTRIES = 4000
"""What is read together: so many objects of an annotation file at most."""
BYTES = 8 * 2**20
"""And so many bytes of pictures that rows bring along."""
WORTH_KEEPING = 2**20
"""Bytes of a block's text; less is read again faster than it is found."""
SCHEMA = pa.schema(
    [
        *(ledger.SCHEMA.field(name) for name in ("id", "task", "state", "reason", "file")),
        *(example.SCHEMA.field(name) for name in ("domain", "kind", "images", "turns", "templated", "language")),
    ]
)
"""Of a block's rows. `images` has the pictures' names; a row whose state is not `on` has nothing but what the ledger says."""
ABOUT = b"tandem"
"""The key of a kept block's file under which stands which bytes it is of."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a source, in their order."""

    rows: pa.Table
    """Of `SCHEMA`."""
    brought: Mapping[str, bytes]
    """The pictures that rows bring along, by names that no file can have."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How a source's rows are read."""

    form: Format
    tasks: Mapping[str, Task]
    source: str
    excluded: frozenset[str]
    """Ids, and pictures' names, of rows that must not be read."""

    def blocks(self, path: Path, file: str, memo: Memo) -> Iterator[Block]:
        """The blocks of an annotation file that is `file` below the source's folder.

        Raises:
            ValueError: as `read_rows`.
        """
        text = text_of(path)
        if not text:
            yield from self.blocks_of(read_rows(path), file)
            return
        stamp = _stamp(path)
        start: dict[str, int] | None = None
        reading: tuple[Any, Iterator[Any]] | None = None
        while True:
            kept = memo.recall(file, start)
            found = _unchanged(kept, path, start) if kept else None
            if found:
                rows, end = found
                reading = None
                yield Block(rows, {})
            else:
                if reading is None:
                    opened = text(path, start)
                    reading = opened, iter(opened)
                opened, entries = reading
                made = self._next_block(entries, file)
                end = opened.place() if made.whole else None
                block = made.block()
                if not block.brought:
                    _keep(memo, block.rows, path, stamp, file, start, end)
                yield block
            if end is None:
                return
            start = end

    def blocks_of(self, entries: Iterator[Any], file: str) -> Iterator[Block]:
        """The blocks of `entries`, which stand in `file`."""
        whole = True
        while whole:
            made = self._next_block(entries, file)
            whole = made.whole
            yield made.block()

    def _next_block(self, entries: Iterator[Any], file: str) -> "_Making":
        made = _Making(self, file)
        for entry in entries:
            made.add(entry)
            if made.whole:
                break
        return made

    def draft(self, row: Any) -> Draft:
        """A row as a draft.

        Raises:
            UnreadableError: none can be made of it.
        """
        if isinstance(row, UnreadableError):
            raise row
        if not isinstance(row, dict):
            raise UnreadableError(f"not_an_object: the row is {type(row).__name__}")
        draft = self.form.read_row(row, self.tasks, self.source)
        for text in _texts(draft):
            # A text knows of itself whether it is plain ASCII.
            if not text.isascii() and not _is_unicode(text):
                # Half of a surrogate pair ("\ud83d") is legal JSON, and no character: no file can hold it as text.
                raise UnreadableError(f"not_unicode: {printable(text)[:80]}")
        return draft

    def excludes(self, draft: Draft) -> str | None:
        """By which of its names a draft is excluded; None if by none."""
        names = [draft.id]
        for image in draft.images:
            if isinstance(image, str):
                names += [image, PurePosixPath(image).stem]
        return next((name for name in names if name in self.excluded), None)


@dataclass(slots=True)
class _Making:
    """A block on the way: a value a row in each of its columns."""

    reader: Reader
    file: str
    entries: int = 0
    held: int = 0
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SCHEMA.names if name != "file"})
    brought: dict[str, bytes] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether no more fits."""
        return self.entries >= ENTRIES or self.held >= BYTES

    def add(self, entry: Any) -> None:
        """Add the rows of one object of the file."""
        self.entries += 1
        for row in self.reader.form.rows(entry, self.file) if isinstance(entry, dict) else (entry,):
            try:
                draft = self.reader.draft(row)
            except UnreadableError as error:
                self._end("unreadable", printable(str(error)), *_labels(row))
                continue
            excluded = self.reader.excludes(draft) if self.reader.excluded else None
            if excluded:
                self._end("excluded", f"excluded_by_source: {excluded}", draft.id, draft.task)
            else:
                self._go_on(draft)

    def block(self) -> Block:
        """What was added."""
        columns = {name: pa.array(values, SCHEMA.field(name).type) for name, values in self.columns.items() if name != "turns"}
        columns["turns"] = example.turns_of(self.columns["turns"])
        columns["file"] = pa.repeat(pa.scalar(printable(self.file)), len(self.columns["id"]))
        return Block(pa.table(columns).select(SCHEMA.names).cast(SCHEMA), self.brought)

    def _go_on(self, draft: Draft) -> None:
        number = len(self.columns["id"])
        names = []
        for place, image in enumerate(draft.images):
            if isinstance(image, bytes):
                self.held += len(image)
                name = f"\0{number}:{place}"
                self.brought[name] = image
                names.append(name)
            else:
                names.append(image)
        self._add(
            draft.id, draft.task, ledger.ON, "", draft.domain, draft.kind, names, draft.turns, draft.templated, draft.language
        )

    def _end(self, state: str, reason: str, id: str, task: str) -> None:
        self._add(id, task, state, reason, "", "", (), (), False, "")

    def _add(self, *values: Any) -> None:
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)


def printable(text: str) -> str:
    """`text` with what is no character written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _labels(row: Any) -> tuple[str, str]:
    """Id and task of a row no draft came of, as far as it has them."""
    named = row if isinstance(row, dict) else {}
    name = next((named[key] for key in ("id", "instance_id", "image_id") if key in named), None)
    task = named.get("task_name")
    return printable(str(name)) if isinstance(name, str | int) else "", printable(task) if isinstance(task, str) else ""


def _texts(draft: Draft) -> list[str]:
    labels = [draft.id, draft.task, draft.domain, draft.kind, draft.language]
    names = [image for image in draft.images if isinstance(image, str)]
    return [*labels, *names, *[turn.role for turn in draft.turns], *[turn.text for turn in draft.turns]]


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _keep(
    memo: Memo, rows: pa.Table, path: Path, stamp: str, file: str, start: dict[str, int] | None, end: dict[str, int] | None
) -> None:
    """Keep what the bytes from `start` to `end` gave, or to the file's end if that is None.

    The digest is taken of the file after `rows` were read of it. They are only kept if it has the `stamp` still that it had
    before: of a file that is written to meanwhile, the bytes may be others than those that gave the rows.
    """
    size = path.stat().st_size
    first = start["byte"] if start else 0
    # Of what stands behind a row, the next character belongs to it: 1 is another row than 12.
    last = min(size, end["byte"] + 1) if end else size
    if last - first < WORTH_KEEPING:
        return
    about = {"end": end, "last": last, "digest": _digest(path, first, last)}
    if _stamp(path) != stamp:
        return
    table = rows.replace_schema_metadata({ABOUT: json.dumps(about)})
    memo.keep(partial(pq.write_table, table, compression="zstd"), file, start)


def _stamp(path: Path) -> str:
    """Changes when the file is written to, also to the same length or with its old date, or when another takes its place."""
    about = path.stat()
    return f"{about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


def _unchanged(kept: Path, path: Path, start: dict[str, int] | None) -> tuple[pa.Table, dict[str, int] | None] | None:
    """What was kept, and where the next block begins; None if other bytes stand there now."""
    rows = pq.read_table(kept)
    about = json.loads(rows.schema.metadata[ABOUT])
    size = path.stat().st_size
    as_long = size >= about["last"] if about["end"] else size == about["last"]
    if not as_long or _digest(path, start["byte"] if start else 0, about["last"]) != about["digest"]:
        return None
    return rows.replace_schema_metadata(None), about["end"]


def _digest(path: Path, first: int, last: int) -> str:
    made = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(first)
        while first < last and (part := file.read(min(2**20, last - first))):
            made.update(part)
            first += len(part)
    return made.hexdigest()
