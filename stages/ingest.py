"""Read one source, in its upstream format, into examples, pictures and a ledger; no row is lost, whatever is wrong with it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field, PositiveInt, field_validator, model_validator

from stages.corpus import example, ledger, shards
from stages.corpus.images import ImageWriter
from stages.formats import FORMATS, Format
from stages.formats.annotations import read_rows, read_tasks, read_text
from stages.formats.draft import Draft, Task, UnreadableError
from stages.formats.hub import read_hub
from stages.formats.pictures import open_pictures
from stages.formats.shelf import Shelf
from stages.running import command
from stages.running.command import Out
from stages.running.progress import progress
from stages.running.section import Section

ROWS_AT_ONCE = 2000
BYTES_AT_ONCE = 8 * 2**20
"""Of the pictures that rows bring along: so many are held together, before they are stored."""


class Hub(Section):
    """A data set of the Hugging Face hub, or of a mirror of it."""

    id: str
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
    """Where the source lies; nothing outside of it is read, but for the hub's rows."""
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


@dataclass(slots=True)
class _Row:
    """A row of the source as far as it came: it has a draft, or ended in `state` for `reason`."""

    number: int
    file: str
    id: str
    task: str
    state: str
    reason: str
    draft: Draft | None
    digests: tuple[str, ...] = ()
    """Of its pictures, once they are in the store."""


def ingest(params: Params, source: str, folder: Path, ingested: Out) -> None:
    """Read `source` from `folder`."""
    about = _source(params, source)
    tasks = read_tasks(_below(folder, about.instructions)) if about.instructions else {}
    read = _reader(source, about, tasks, folder)
    lines: list[pa.Table] = []
    with (
        open_pictures(_below(folder, about.images) if about.images else None) as pictures,
        ImageWriter(ingested, params.shard_mib) as store,
    ):
        shelf = Shelf(pictures, store)
        rows = map(read, count(), progress(_rows(folder, about), f"ingest {source}"))
        for number in count():
            examples = [example.table_of([])]
            for some in _chunks(islice(rows, params.shard_rows)):
                _place(some, shelf)
                examples.append(_examples(source, about, some))
                lines.append(_lines(source, some))
            if number and len(examples) == 1:
                break
            example.write_table(ingested / "examples" / shards.name(number), pa.concat_tables(examples))
    ledger.write_table(ingested / "ledger.parquet", pa.concat_tables([ledger.SCHEMA.empty_table(), *lines]))
    _write_json(ingested / "instructions.json", {name: asdict(task) for name, task in tasks.items()})
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


def _rows(folder: Path, about: Source) -> Iterator[tuple[str, Any]]:
    """Every row of the source, with the file it stands in; a row's number is its place here."""
    form = FORMATS[about.format]
    if about.hub:
        where = f"{about.hub.id}@{about.hub.revision}/{about.hub.split}"
        found = [(where, read_hub(about.hub.id, about.hub.revision, about.hub.name, about.hub.split))]
    else:
        assert about.annotations is not None
        found = [(file, read_rows(_below(folder, file))) for file in _files(folder, about.annotations)]
    for file, entries in found:
        shown = _printable(file)
        for entry in entries:
            if isinstance(entry, dict):
                for row in form.rows(entry, file):
                    yield shown, row
            else:
                yield shown, entry


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


def _reader(source: str, about: Source, tasks: Mapping[str, Task], folder: Path) -> Callable[[int, tuple[str, Any]], _Row]:
    """What reads one row, given its number, its file and what stands there."""
    form = FORMATS[about.format]
    excluded = _excluded(folder, about.exclude)

    def read(number: int, found: tuple[str, Any]) -> _Row:
        file, row = found
        try:
            draft = _draft(row, form, tasks, source)
        except UnreadableError as error:
            return _ended(number, file, row if isinstance(row, dict) else {}, str(error))
        if excluded and (named := _named_in(excluded, draft)):
            return _Row(number, file, draft.id, draft.task, "excluded", f"excluded_by_source: {named}", None)
        return _Row(number, file, draft.id, draft.task, ledger.ON, "", draft)

    return read


def _draft(row: Any, form: Format, tasks: Mapping[str, Task], source: str) -> Draft:
    if isinstance(row, UnreadableError):
        raise row
    if not isinstance(row, dict):
        raise UnreadableError(f"not_an_object: the row is {type(row).__name__}")
    draft = form.read_row(row, tasks, source)
    for text in _texts(draft):
        # A text knows of itself whether it is plain ASCII.
        if not text.isascii() and not _is_unicode(text):
            # Half of a surrogate pair ("\ud83d") is legal JSON, and no character: no file can hold it as text.
            raise UnreadableError(f"not_unicode: {_printable(text)[:80]}")
    return draft


def _texts(draft: Draft) -> list[str]:
    labels = [draft.id, draft.task, draft.domain, draft.kind, draft.language]
    names = [image for image in draft.images if isinstance(image, str)]
    return [*labels, *names, *[turn.role for turn in draft.turns], *[turn.text for turn in draft.turns]]


def _ended(number: int, file: str, row: Mapping[str, Any], reason: str) -> _Row:
    """A row no draft came of; its labels only as far as the row has them."""
    name = next((row[field] for field in ("id", "instance_id", "image_id") if field in row), None)
    task = row.get("task_name")
    return _Row(
        number=number,
        file=file,
        id=_printable(str(name)) if isinstance(name, str | int) else "",
        task=_printable(task) if isinstance(task, str) else "",
        state="unreadable",
        reason=_printable(reason),
        draft=None,
    )


def _excluded(folder: Path, name: str | None) -> frozenset[str]:
    """What the source's file of exclusions lists."""
    lines = read_text(_below(folder, name)).splitlines() if name else []
    return frozenset(line.strip() for line in lines if line.strip())


def _named_in(excluded: frozenset[str], draft: Draft) -> str | None:
    """By which of its names `draft` is excluded; None if by none."""
    names = [draft.id]
    for image in draft.images:
        if isinstance(image, str):
            names += [image, PurePosixPath(image).stem]
    return next((name for name in names if name in excluded), None)


def _chunks(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """`rows`, some at a time: as many as fit, together with the pictures they bring along."""
    chunk: list[_Row] = []
    held = 0
    for row in rows:
        chunk.append(row)
        if row.draft:
            held += sum(len(image) for image in row.draft.images if isinstance(image, bytes))
        if len(chunk) == ROWS_AT_ONCE or held >= BYTES_AT_ONCE:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _place(rows: Sequence[_Row], shelf: Shelf) -> None:
    """Put the pictures of `rows` into the store, and their digests in the pictures' stead; rows that lack one end."""
    going = [(row, row.draft) for row in rows if row.draft]
    found = shelf.place([draft for _, draft in going])
    for (row, _), digests in zip(going, found, strict=True):
        if isinstance(digests, UnreadableError):
            row.state, row.reason, row.draft = "unreadable", _printable(str(digests)), None
        else:
            row.digests = digests


def _examples(source: str, about: Source, rows: Sequence[_Row]) -> pa.Table:
    """The examples of the rows that go on, a table of `example.SCHEMA`."""
    going = [(row.number, row.digests, row.draft) for row in rows if row.draft]
    drafts = [draft for _, _, draft in going]
    return example.table(
        {
            "source": [source] * len(going),
            "row": [number for number, _, _ in going],
            "id": [draft.id for draft in drafts],
            "task": [draft.task for draft in drafts],
            "domain": [draft.domain for draft in drafts],
            "kind": [draft.kind for draft in drafts],
            "origin": [about.origin] * len(going),
            "images": [digests for _, digests, _ in going],
            "turns": [draft.turns for draft in drafts],
            "templated": [draft.templated for draft in drafts],
            "language": [draft.language or about.language or "" for draft in drafts],
        }
    )


def _lines(source: str, rows: Sequence[_Row]) -> pa.Table:
    """The ledger's lines of `rows`, a table of `ledger.SCHEMA`."""
    return pa.table(
        {
            "source": [source] * len(rows),
            "row": [row.number for row in rows],
            "id": [row.id for row in rows],
            "task": [row.task for row in rows],
            "state": [row.state for row in rows],
            "reason": [row.reason for row in rows],
            "file": [row.file for row in rows],
        },
        schema=ledger.SCHEMA,
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


if __name__ == "__main__":
    command.run(ingest)
