"""A source's annotation and instruction files, read into plain rows; a broken file is refused, with the place of the break."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stages.corpus.example import IMAGE
from stages.corpus.text import CONTROL, SPECIAL
from stages.formats.draft import Task, UnreadableError
from stages.formats.parquet import read_parquet
from stages.formats.shards import read_samples

FORBIDDEN = re.compile(f"{CONTROL}|{SPECIAL}|{re.escape(IMAGE)}|[\ud800-\udfff]")
STREAMED: dict[str, Callable[[Path], Iterator[Any]]] = {".parquet": read_parquet, ".tar": read_samples}
"""Files whose rows hold their pictures, so that all rows together may be larger than memory."""


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of an annotation file, in its order, whatever each of them is.

    A `.jsonl` file has a row a line, and a line that does not parse is yielded as `UnreadableError`. A `.parquet` file and a
    WebDataset shard (`.tar`) are read a few rows at a time, because they hold pictures. Any other file is one JSON list, or an
    object with the list under `data`, which may group rows into lists (the Vision-Flan site's data.json).

    Raises:
        ValueError: the file is missing, is cut off or broken, or holds no list.
    """
    if path.suffix == ".jsonl":
        yield from _read_lines(path)
        return
    if path.suffix in STREAMED:
        yield from STREAMED[path.suffix](_existing(path))
        return
    rows = _read_json(path)
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a JSON list of rows, got {_called(rows)}; is it the annotations file?")
    for row in rows:
        if isinstance(row, list):
            yield from row
        else:
            yield row


def read_tasks(path: Path) -> dict[str, Task]:
    """The instructions file: `{task: {"domain", "kind", "instructions": […]}}`.

    Raises:
        ValueError: it is missing or broken, or an entry is not of that form.
    """
    entries = _read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map tasks to their instructions, got {_called(entries)}")
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
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = ", where the file ends: it looks cut off" if error.pos >= len(text.rstrip()) else ""
        raise ValueError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(text)}){cut}; copy or download it again, or mend it there"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise ValueError(f"{path} cannot be read as JSON: {error}; is it the annotations file?") from error


def _read_lines(path: Path) -> Iterator[Any]:
    for line in _read_text(path).split("\n"):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield UnreadableError(f"not_json: {error}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; its name comes from this source's entry in params.yaml, section ingest")
    return path


def _read_text(path: Path) -> str:
    try:
        return _existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}; convert it, or copy it again"
        ) from error


def _called(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), type(value).__name__)
