"""A source's annotation and instruction files, read into plain rows; a broken file is refused, with the place of the break."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stages.corpus.example import IMAGE
from stages.corpus.text import CONTROL, SPECIAL
from stages.formats.draft import Task
from stages.formats.hub import read_arrow, read_saved
from stages.formats.json_lines import JsonLines
from stages.formats.json_list import JsonList, called, not_json, not_readable, not_unicode
from stages.formats.parquet import read_parquet
from stages.formats.webdataset import read_samples

FORBIDDEN = re.compile(f"{CONTROL}|{SPECIAL}|{re.escape(IMAGE)}|[\ud800-\udfff]")
READERS: dict[str, Callable[[Path], Iterator[Any]]] = {".arrow": read_arrow, ".parquet": read_parquet, ".tar": read_samples}
"""A file's suffix → what reads it, where it is not JSON."""


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of an annotation file, in its order, whatever each of them is.

    A `.jsonl` file has a row a line, and a line that does not parse is yielded as `UnreadableError`. A `.parquet` or `.arrow`
    file, a WebDataset shard (`.tar`) and a folder that `save_to_disk` made may hold pictures. Any other file is one JSON list,
    or an object with the list under `data`, which may group rows into lists (the Vision-Flan site's data.json). None is ever
    held whole, whatever its size.

    Raises:
        ValueError: the file is missing, is cut off or broken, or holds no list.
    """
    text = text_of(path)
    if text:
        yield from text(path)
    elif path.is_dir():
        yield from read_saved(path)
    else:
        yield from READERS[path.suffix](existing(path))


def text_of(path: Path) -> type[JsonLines] | type[JsonList] | None:
    """What reads the file where it is text, which can be taken up again at any row; None where it is not.

    Raises:
        ValueError: the file is missing.
    """
    if path.is_dir() or path.suffix in READERS:
        return None
    existing(path)
    return JsonLines if path.suffix == ".jsonl" else JsonList


def read_tasks(path: Path) -> dict[str, Task]:
    """The instructions file: `{task: {"domain", "kind", "instructions": […]}}`.

    Raises:
        ValueError: it is missing or broken, or an entry is not of that form.
    """
    entries = _read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map tasks to their instructions, got {called(entries)}")
    return {name: _task(path, name, entry) for name, entry in entries.items()}


def read_names(path: Path) -> frozenset[str]:
    """The names in a file that has one a line.

    Raises:
        ValueError: it is missing, or no UTF-8.
    """
    return frozenset(line.strip() for line in _read_text(path).splitlines() if line.strip())


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
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip())
        raise not_json(path, error.msg, error.lineno, error.colno, error.pos, len(text), cut) from error
    except (ValueError, RecursionError) as error:
        raise not_readable(path, error) from error


def existing(path: Path) -> Path:
    """`path`, if there is a file.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; its name comes from this source's entry in params.yaml, section ingest")
    return path


def _read_text(path: Path) -> str:
    try:
        return existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_unicode(path, error.start, error.object[error.start]) from error
