"""One upstream format a file: its rows become drafts of examples. A new format is a module and a line in `FORMATS`."""

from collections.abc import Callable, Mapping
from typing import Any

from stages.formats import llava, vision_flan
from stages.formats.draft import Draft, Task

FORMATS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Task], str], Draft]] = {
    "llava": llava.read_row,
    "vision_flan": vision_flan.read_row,
}
"""Format name, as in params, → its reader: (row, tasks with instructions, source name) → draft, or `UnreadableError`."""
