"""A source's annotation and instruction files, read into plain rows; a broken file is refused, with the place of the break."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stages.corpus.example import IMAGE
from stages.corpus.text import CONTROL, SPECIAL
from stages.formats.draft import Task, UnreadableError
from stages.formats.hub import read_arrow, read_saved
from stages.formats.json_list import called, not_json, not_readable, not_unicode, read_list
from stages.formats.parquet import read_parquet
from stages.formats.shards import read_samples

FORBIDDEN = re.compile(f"{CONTROL}|{SPECIAL}|{re.escape(IMAGE)}|[\ud800-\udfff]")
READERS: dict[str, Callable[[Path], Iterator[Any]]] = {".arrow": read_arrow, ".parquet": read_parquet, ".tar": read_samples}
"""A file's suffix → what reads it, where it is not JSON."""


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of an annotation file, in its order, whatever each of them is.

    A `.jsonl` file has a row a line, and a line that does not parse is yielded as `UnreadableError`. A `.parquet` file and a
    WebDataset shard (`.tar`) may hold pictures. Any other file is one JSON list, or an object with the list under `data`, which
    may group rows into lists (the Vision-Flan site's data.json). None is ever held whole, whatever its size.

    Raises:
        ValueError: the file is missing, is cut off or broken, or holds no list.
    """
    if path.suffix == ".jsonl":
        yield from _read_lines(path)
        return
    if path.is_dir():
        yield from read_saved(path)
        return
    if path.suffix in READERS:
        yield from READERS[path.suffix](_existing(path))
        return
    yield from read_list(_existing(path))


def read_tasks(path: Path) -> dict[str, Task]:
    """The instructions file: `{task: {"domain", "kind", "instructions": […]}}`.

    Raises:
        ValueError: it is missing or broken, or an entry is not of that form.
    """
    entries = _read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map tasks to their instructions, got {called(entries)}")
    return {name: _task(path, name, entry) for name, entry in entries.items()}


def _task(path: Path, name: str, entry: Any) -> Task:
    wanted = '{"domain": text, "kind": text, "instructions": [text, …]}, with at least one instruction'
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("domain"), str)
        or not isinstance(entry.get("kind"), str)
        or not isinstance(entry.get("instructions"), list)
        or not entry["instructions"]
        or not all(isinstance(text, str) and text.strip() for text in entry["instructions"])
    ):
        raise ValueError(f"{path}: task {name!r} must be {wanted}; got {json.dumps(entry)[:200]}")
    for text in entry["instructions"]:
        # The contract sees rows alone, and instructions join them only after it.
        found = FORBIDDEN.search(text)
        if found:
            raise ValueError(f"{path}: an instruction of task {name!r} holds {found[0]!r}, which no text may; take it out")
    return Task(domain=entry["domain"], kind=entry["kind"], instructions=tuple(entry["instructions"]))


def _read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip())
        raise not_json(path, error.msg, error.lineno, error.colno, error.pos, len(text), cut) from error
    except (ValueError, RecursionError) as error:
        raise not_readable(path, error) from error


def _read_lines(path: Path) -> Iterator[Any]:
    """The rows of a file of JSON lines; what is no row is so alone, because every line can be told from the next."""
    with _existing(path).open("rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(codecs.BOM_UTF8) if not number else line
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                yield UnreadableError(f"not_unicode: byte {error.start} of line {number + 1} is {line[error.start]:#04x}")
            except (ValueError, RecursionError) as error:
                yield UnreadableError(f"not_json: {error}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; its name comes from this source's entry in params.yaml, section ingest")
    return path


def read_text(path: Path) -> str:
    """What a file of a source says; small ones only.

    Raises:
        ValueError: it is missing, or no UTF-8.
    """
    try:
        return _existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_unicode(path, error.start, error.object[error.start]) from error
