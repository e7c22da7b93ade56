"""Read one source, in its upstream format, into examples, pictures and a ledger; no row is lost, whatever is wrong with it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from stages.corpus import example, ledger, shards
from stages.corpus.example import Example
from stages.corpus.images import ImageWriter
from stages.corpus.ledger import Line
from stages.formats import FORMATS, Format
from stages.formats.annotations import STREAMED, read_rows, read_tasks
from stages.formats.draft import Draft, Task, UnreadableError
from stages.formats.pictures import open_pictures
from stages.running import command
from stages.running.command import Out
from stages.running.progress import progress
from stages.running.section import Section


class Source(Section):
    """A named collection in one upstream format."""

    format: str
    """The upstream format: a name in `stages/formats/`."""
    folder: str
    """Where the source lies; nothing outside of it is read."""
    annotations: str
    """The file of rows, in the folder: `.json` (one list), `.jsonl` (a row a line), `.parquet`, `.tar` (WebDataset's shard);
    `qa/*.jsonl` is every file it fits."""
    instructions: str | None
    """The file of instructions per task, in the folder; null where rows carry their own."""
    images: str | None
    """The pictures, in the folder: a folder, a zip or a tar; null where rows bring theirs along, or have none."""
    origin: Literal["human", "synthesized"]
    """Who wrote the answers."""

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"is no known format; known: {', '.join(sorted(FORMATS))}")
        return name


class Params(Section):
    """What `ingest` reads."""

    sources: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Source]
    """Every source by its name, of letters, digits, dashes and underscores; the stage runs once for each."""
    shard_rows: PositiveInt
    """Rows of a source in one shard of examples; all stages after it work on a shard at a time."""
    shard_mib: PositiveInt
    """Size of an image shard, in MiB."""


def ingest(params: Params, source: str, folder: Path, ingested: Out) -> None:
    """Read `source` from `folder`."""
    about = _source(params, source)
    form = FORMATS[about.format]
    tasks = read_tasks(_below(folder, about.instructions)) if about.instructions else {}
    rows = _rows(folder, about.annotations, form)
    examples: list[Example] = []
    lines: list[Line] = []
    digests: dict[str, str] = {}
    with (
        open_pictures(_below(folder, about.images) if about.images else None) as pictures,
        ImageWriter(ingested, params.shard_mib) as store,
    ):
        for number, (file, row) in enumerate(progress(rows, f"ingest {source}")):
            try:
                draft = _read(row, form, tasks, source)
                new = [image for image in draft.images if isinstance(image, str) and image not in digests]
                contents = {name: pictures.read(name) for name in new}
            except UnreadableError as error:
                named = row if isinstance(row, dict) else {}
                lines.append(_ended(source, number, named, str(error), file))
                continue
            # Pictures are stored only when all of the row's are there: a row that ends here leaves nothing behind.
            digests |= {name: store.add(content) for name, content in contents.items()}
            images = tuple(store.add(image) if isinstance(image, bytes) else digests[image] for image in draft.images)
            examples.append(_example(source, number, about.origin, draft, images))
            lines.append(Line(source, number, draft.id, draft.task, ledger.ON, file=_printable(file)))
    for first in range(0, len(lines) or 1, params.shard_rows):
        shard = [one for one in examples if first <= one.row < first + params.shard_rows]
        example.write(ingested / "examples" / shards.name(first // params.shard_rows), shard)
    ledger.write(ingested / "ledger.parquet", lines)
    (ingested / "instructions.json").write_text(
        json.dumps({name: asdict(task) for name, task in tasks.items()}, sort_keys=True, ensure_ascii=False, indent=1) + "\n",
        encoding="utf-8",
    )


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


def _rows(folder: Path, annotations: str, form: Format) -> Iterable[tuple[str, Any]]:
    """Every row of the source, with the file it stands in; a row's number is its place here.

    All at once, so that how many there are is known, unless some bring their pictures along.
    """
    files = _files(folder, annotations)
    rows = (
        (file, row)
        for file in files
        for entry in read_rows(_below(folder, file))
        for row in (form.rows(entry, file) if isinstance(entry, dict) else (entry,))
    )
    return rows if any(PurePosixPath(file).suffix in STREAMED for file in files) else list(rows)


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


def _read(row: Any, form: Format, tasks: Mapping[str, Task], source: str) -> Draft:
    if isinstance(row, UnreadableError):
        raise row
    if not isinstance(row, dict):
        raise UnreadableError(f"not_an_object: the row is {type(row).__name__}")
    draft = form.read_row(row, tasks, source)
    for text in _texts(draft):
        if not _is_unicode(text):
            # Half of a surrogate pair ("\ud83d") is legal JSON, and no character: no file can hold it as text.
            raise UnreadableError(f"not_unicode: {_printable(text)[:80]}")
    return draft


def _texts(draft: Draft) -> Iterator[str]:
    yield from (draft.id, draft.task, draft.domain, draft.kind)
    yield from (image for image in draft.images if isinstance(image, str))
    for turn in draft.turns:
        yield from (turn.role, turn.text)


def _example(source: str, number: int, origin: str, draft: Draft, images: tuple[str, ...]) -> Example:
    return Example(
        source=source,
        row=number,
        id=draft.id,
        task=draft.task,
        domain=draft.domain,
        kind=draft.kind,
        origin=origin,
        images=images,
        turns=draft.turns,
        templated=draft.templated,
    )


def _ended(source: str, number: int, row: Mapping[str, Any], reason: str, file: str) -> Line:
    """The ledger line of a row no example came of; its labels only as far as the row has them."""
    name = next((row[field] for field in ("id", "instance_id", "image_id") if field in row), None)
    task = row.get("task_name")
    return Line(
        source=source,
        row=number,
        id=_printable(str(name)) if isinstance(name, str | int) else "",
        task=_printable(task) if isinstance(task, str) else "",
        state="unreadable",
        reason=_printable(reason),
        file=_printable(file),
    )


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
