"""Rows of a JSON list larger than memory: read and decoded a part at a time, refused as if it had been read whole."""

import codecs
import json
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

AT_ONCE = 2**22
"""Bytes read at once. A row is decoded anew when more of it comes, so this should be larger than most rows."""
MARGIN = 16
"""Characters that must follow what was decoded before it is trusted: a number, a word or an escape may be cut by the window's
end, and the longest that reads as something else when it is cut, `-Infinity`, has nine."""
SPACE = re.compile(r"[ \t\n\r]*")
UNENDED = "Unterminated string starting at"
ROW, COMMA = "[0", "[0,"
PAIR, ANOTHER = '{"":0', '{"":0,'
"""What stood before a place in the text, as short as can be: JSON's own decoder then says what is wrong there."""


def read_list(path: Path) -> Iterator[Any]:
    """The rows of a JSON list, or of the list under `data` in an object; a list among the rows is a group of rows.

    Only the window's text and one row are held at a time. What is wrong with the file is raised where it stands, which may be
    after many rows.

    Raises:
        ValueError: the file is cut off or broken, is no UTF-8, or holds no list.
    """
    with path.open("rb") as file:
        yield from _Window(file, path).rows()


def not_unicode(path: Path, byte: int, value: int) -> ValueError:
    """The refusal of a file of which one byte is no UTF-8."""
    return ValueError(f"{path} is not UTF-8 text: byte {byte} is {value:#04x}; convert it, or copy it again")


def not_json(path: Path, what: str, line: int, column: int, character: int, of: int, cut: bool) -> ValueError:
    """The refusal of a file that is not valid JSON at one place, which is where the file ends if it was `cut`."""
    end = ", where the file ends: it looks cut off" if cut else ""
    return ValueError(
        f"{path} is not valid JSON: {what} at line {line}, column {column} (character {character} of {of}){end}; "
        "copy or download it again, or mend it there"
    )


def not_readable(path: Path, error: Exception) -> ValueError:
    """The refusal of a file that Python cannot hold: a number of thousands of digits, lists in lists without end."""
    return ValueError(f"{path} cannot be read as JSON: {error}; is it the annotations file?")


def not_a_list(path: Path, what: str) -> ValueError:
    """The refusal of a file that holds something else than rows."""
    return ValueError(f"{path} must hold a JSON list of rows, got {what}; is it the annotations file?")


def called(value: Any) -> str:
    """What a JSON value is, in words."""
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), type(value).__name__)


class _Window:
    """The part of a file's text that is held, and the place in it up to which it is read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.text = ""
        self.at = 0
        self.ended = False
        self.gone = 0
        """Characters before the window."""
        self.lines = 0
        """Line ends before the window."""
        self.line = 0
        """The character at which the window's first line begins, which may be before the window."""
        self.bytes = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.decode = json.JSONDecoder().raw_decode

    def rows(self) -> Iterator[Any]:
        """Every row of the file."""
        self._skip_mark()
        first = self._next()
        found: str | None = None
        if first == "[":
            yield from self._list(groups=True)
        elif first == "{":
            found = yield from self._object()
        else:
            found = called(self._value())
        if self._next():
            self._fail("Extra data", self.at)
        if found is not None:
            raise not_a_list(self.path, found)

    def _list(self, groups: bool) -> Iterator[Any]:
        """The values of the list that begins here."""
        self.at += 1
        if self._next() == "]":
            self.at += 1
            return
        while True:
            if groups and self._next() == "[":
                yield from self._list(groups=False)
            else:
                yield self._value()
            if self._ends("]", ROW, COMMA):
                return

    def _object(self) -> Generator[Any, None, str | None]:
        """The rows under `data` in the object that begins here; returns what was found instead of them, if it was."""
        self.at += 1
        found: str | None = "an object"
        if self._next() == "}":
            self.at += 1
            return found
        before = "{"
        while True:
            if self._next() != '"':
                self._misplaced(before)
            key = self._value()
            if self._next() != ":":
                self._misplaced('{""')
            self.at += 1
            if key != "data":
                self._value()
            elif found is None:
                raise ValueError(f"{self.path} has two lists under 'data'; give them a file each, or make them one")
            elif self._next() == "[":
                yield from self._list(groups=True)
                found = None
            else:
                self._value()
            if self._ends("}", PAIR, ANOTHER):
                return found
            before = ANOTHER

    def _ends(self, close: str, item: str, comma: str) -> bool:
        """Whether `close` stands here, and not a comma before another item."""
        mark = self._next()
        if mark == close:
            self.at += 1
            return True
        if mark != ",":
            self._misplaced(item)
        following = self._place_of_next(behind=1)
        if self.text[following : following + 1] == close:
            self._misplaced(comma, following)
        self.at = following
        return False

    def _value(self) -> Any:
        """The value that stands here; the place moves behind it."""
        self._next()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # A text without an end begins anywhere, and may end in what is still to come.
                if self.ended or (error.msg != UNENDED and error.pos + MARGIN <= len(self.text)):
                    self._fail(error.msg, error.pos)
            except (ValueError, RecursionError) as error:
                raise not_readable(self.path, error) from error
            else:
                if self.ended or end + MARGIN <= len(self.text):
                    self.at = end
                    return value
            self._more()

    def _next(self) -> str:
        """The next character that is no space, at which the place is then; empty where the file ends."""
        self.at = self._place_of_next()
        return self.text[self.at : self.at + 1]

    def _place_of_next(self, behind: int = 0) -> int:
        """Where the next character stands that is no space, at least `behind` from here; the window's end if there is none."""
        while True:
            found = SPACE.match(self.text, self.at + behind)
            assert found is not None
            if found.end() < len(self.text) or self.ended:
                return found.end()
            self._more()

    def _more(self) -> None:
        """Forget what is read, and hold as much again of what follows, so that a long row is decoded anew only a few times."""
        self.lines += self.text.count("\n", 0, self.at)
        last = self.text.rfind("\n", 0, self.at)
        self.line = self.line if last < 0 else self.gone + last + 1
        self.gone += self.at
        self.text = self.text[self.at :]
        self.at = 0
        self.text += self._read(max(AT_ONCE, len(self.text)))

    def _read(self, size: int) -> str:
        block = self.file.read(size)
        pending = len(self.decoder.getstate()[0])
        self.ended = not block
        try:
            text = self.decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            raise not_unicode(self.path, self.bytes - pending + error.start, error.object[error.start]) from error
        self.bytes += len(block)
        return text

    def _skip_mark(self) -> None:
        if self.file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            self.bytes = len(codecs.BOM_UTF8)
        else:
            self.file.seek(0)

    def _misplaced(self, before: str, following: int | None = None) -> NoReturn:
        """Refuse what stands here behind `before`, or at `following` behind the comma here, in the words of JSON's decoder."""
        place = self.at if following is None else following
        try:
            json.loads(before + self.text[place : place + 1])
        except json.JSONDecodeError as error:
            # Of a comma with nothing behind it, newer Pythons name the comma's own place.
            self._fail(error.msg, place if error.pos == len(before) else self.at)
        raise AssertionError(f"{before} may well be followed by what follows it")

    def _fail(self, what: str, index: int) -> NoReturn:
        """Refuse the file for what stands at `index` of the window."""
        line = self.lines + self.text.count("\n", 0, index) + 1
        last = self.text.rfind("\n", 0, index)
        character = self.gone + index
        column = index - last if last >= 0 else character - self.line + 1
        # Only a look at the rest tells whether the file ends here; and if some of it is no text, that is what is wrong with it.
        cut, total = not self.text[index:].strip(), self.gone + len(self.text)
        while not self.ended:
            text = self._read(AT_ONCE)
            cut, total = cut and not text.strip(), total + len(text)
        raise not_json(self.path, what, line, column, character, total, cut)
