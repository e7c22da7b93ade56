"""One upstream format a file: its rows become drafts of examples. A new format is a module and a line in `FORMATS`."""

from collections.abc import Callable, Mapping
from typing import Any

from stages.formats import fine_vision, llava, messages, vision_flan
from stages.formats.draft import Draft, Task

FORMATS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Task], str], Draft]] = {
    "fine_vision": fine_vision.read_row,
    "llava": llava.read_row,
    "messages": messages.read_row,
    "vision_flan": vision_flan.read_row,
}
"""Format name, as in params, → its reader: (row, tasks with instructions, source name) → draft, or `UnreadableError`."""
