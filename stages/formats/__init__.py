"""One upstream format a file: its rows become drafts of examples. A new format is a module and a line in `FORMATS`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.formats import fine_vision, llava, messages, mminstruct, svit, vision_flan
from stages.formats.draft import Draft, Task


def _itself(entry: Mapping[str, Any], file: str) -> Iterable[Mapping[str, Any]]:
    return (entry,)


@dataclass(frozen=True, slots=True)
class Format:
    """How an upstream format is read."""

    read_row: Callable[[Mapping[str, Any], Mapping[str, Task], str], Draft]
    """(row, tasks with instructions, source name) → its draft, or `UnreadableError`."""
    rows: Callable[[Mapping[str, Any], str], Iterable[Mapping[str, Any]]] = _itself
    """(object of an annotation file, path of the file below the source's folder) → the rows it holds, at least one.

    Most formats have a row an object. Each row bears what only the place it stood in says of it.
    """


FORMATS: dict[str, Format] = {
    "fine_vision": Format(fine_vision.read_row),
    "llava": Format(llava.read_row),
    "messages": Format(messages.read_row),
    "mminstruct": Format(mminstruct.read_row, mminstruct.rows),
    "svit": Format(svit.read_row, svit.rows),
    "vision_flan": Format(vision_flan.read_row),
}
"""Format name, as in params, → how it is read."""
