"""Rows of a JSON list larger than memory: read and decoded a part at a time, refused as if it had been read whole."""

import codecs
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping
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


class JsonList:
    """The rows of a JSON list, or of the list under `data` in an object; a list among the rows is a group of rows."""

    def __init__(self, path: Path, start: Mapping[str, int] | None = None) -> None:
        """`start`: what `place` gave behind an earlier row; what stands before it is not looked at again."""
        self.path = path
        self.start = start
        self.window: _Window | None = None

    def __iter__(self) -> Iterator[Any]:
        """The rows, of which only one and the window's text are held at a time.

        Raises:
            ValueError: the file is cut off or broken, is no UTF-8, or holds no list; that may be after many rows.
        """
        with self.path.open("rb") as file:
            if not _ends_closed(file):
                # It is broken, and most likely cut off: that is said at once, and not after an hour of pictures.
                for _ in _Window(file, self.path, self.start).rows():
                    pass
            self.window = _Window(file, self.path, self.start)
            yield from self.window.rows()

    def place(self) -> dict[str, int]:
        """Where the row that came last ends, `byte` among others."""
        assert self.window, "no row has come yet"
        return self.window.place()


def _ends_closed(file: BinaryIO) -> bool:
    """Whether the file's last character but for spaces closes a list or an object; at most its last kilobytes are looked at."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 4096))
    return file.read().rstrip()[-1:] in (b"]", b"}")


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

    def __init__(self, file: BinaryIO, path: Path, start: Mapping[str, int] | None) -> None:
        self.file = file
        self.path = path
        self.text = ""
        self.at = 0
        self.ended = False
        self.starts = start is None
        """Whether the file is read from its beginning."""
        begin = start or dict.fromkeys(("byte", "gone", "lines", "line", "object", "group"), 0)
        self.bytes = file.seek(begin["byte"])
        """Bytes before the end of what was read."""
        self.gone = begin["gone"]
        """Characters before the window."""
        self.lines = begin["lines"]
        """Line ends before the window."""
        self.line = begin["line"]
        """The character at which the window's first line begins, which may be before the window."""
        self.within_object, self.within_group = bool(begin["object"]), bool(begin["group"])
        """Where the place is: the list under `data` of an object, a group of rows."""
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.decode = json.JSONDecoder().raw_decode

    def rows(self) -> Iterator[Any]:
        """Every row of the file, from where this window begins."""
        found: str | None = None
        if not self.starts:
            found = yield from self._rest()
        else:
            self._skip_mark()
            first = self._next()
            if first == "[":
                yield from self._list()
            elif first == "{":
                found = yield from self._object()
            else:
                found = called(self._value())
        if self._next():
            self._fail("Extra data", self.at)
        if found is not None:
            raise not_a_list(self.path, found)

    def place(self) -> dict[str, int]:
        """What another window needs in order to begin here, behind a row."""
        last = self.text.rfind("\n", 0, self.at)
        ahead = len(self.decoder.getstate()[0]) + len(self.text[self.at :].encode())
        return {
            "byte": self.bytes - ahead,
            "gone": self.gone + self.at,
            "lines": self.lines + self.text.count("\n", 0, self.at),
            "line": self.line if last < 0 else self.gone + last + 1,
            "object": self.within_object,
            "group": self.within_group,
        }

    def _rest(self) -> Generator[Any, None, str | None]:
        """What follows a row; the return value is as `_object` has it."""
        if self.within_group:
            if not self._ends("]", ROW, COMMA):
                yield from self._items()
            self.within_group = False
        if not self._ends("]", ROW, COMMA):
            yield from self._items()
        if self.within_object and not self._ends("}", PAIR, ANOTHER):
            return (yield from self._members(ANOTHER, None))
        return None

    def _list(self) -> Iterator[Any]:
        """The rows of the list that begins here."""
        self.at += 1
        if self._next() == "]":
            self.at += 1
            return
        yield from self._items()

    def _items(self) -> Iterator[Any]:
        """The rows from here to the end of their list; a list in it is a group of rows, and one in a group is a row."""
        while True:
            if self._next() == "[" and not self.within_group:
                self.within_group = True
                yield from self._list()
                self.within_group = False
            else:
                yield self._value()
            if self._ends("]", ROW, COMMA):
                return

    def _object(self) -> Generator[Any, None, str | None]:
        """The rows under `data` in the object that begins here; returns what was found instead of them, if it was."""
        self.at += 1
        if self._next() == "}":
            self.at += 1
            return "an object"
        return (yield from self._members("{", "an object"))

    def _members(self, before: str, found: str | None) -> Generator[Any, None, str | None]:
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
                self.within_object = True
                yield from self._list()
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
            self.bytes = self.file.seek(0)

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
