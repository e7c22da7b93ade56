"""Rows of JSON, one a line: what is no row is so alone, because every line can be told from the next."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.formats.draft import UnreadableError


class JsonLines:
    """The rows of a file that has one a line; empty lines are none."""

    def __init__(self, path: Path, start: Mapping[str, int] | None = None) -> None:
        """`start`: what `place` gave behind an earlier row; what stands before it is not looked at again."""
        self.path = path
        begin = start or {"byte": 0, "lines": 0}
        self.byte, self.lines = begin["byte"], begin["lines"]

    def __iter__(self) -> Iterator[Any]:
        """The rows, of which one is held at a time; a line that is no UTF-8 or no JSON is `UnreadableError`."""
        with self.path.open("rb") as file:
            file.seek(self.byte)
            for line in file:
                first = not self.byte
                self.byte += len(line)
                self.lines += 1
                text = line.removeprefix(codecs.BOM_UTF8) if first else line
                if not text.strip():
                    continue
                try:
                    yield json.loads(text.decode("utf-8"))
                except UnicodeDecodeError as error:
                    yield UnreadableError(f"not_unicode: byte {error.start} of line {self.lines} is {text[error.start]:#04x}")
                except (ValueError, RecursionError) as error:
                    yield UnreadableError(f"not_json: {error}")

    def place(self) -> dict[str, int]:
        """Where the row that came last ends, `byte` among others."""
        return {"byte": self.byte, "lines": self.lines}
