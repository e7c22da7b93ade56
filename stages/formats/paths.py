"""The paths in an archive, or below a folder, by which their files' numbers are found: millions of them, in little memory."""

import posixpath
from array import array
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Paths:
    """Paths, numbered in the order in which they were appended; some thirty bytes of memory each besides its letters."""

    def __init__(self) -> None:
        self._letters = bytearray()
        self._ends = array("q", [0])
        self._hashes = array("q")
        self._name_hashes = array("q")

    def append(self, path: str) -> None:
        """Add a path. All are added before the first is looked for."""
        # A name that is no UTF-8 comes with halves of surrogate pairs in it.
        self._letters += path.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._letters))
        self._hashes.append(hash(path))
        self._name_hashes.append(hash(posixpath.basename(path)))

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, number: int) -> str:
        return self._letters[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def of(self, path: str) -> list[int]:
        """The numbers of all files of that path."""
        return [number for number in self._by_path.find(hash(path)) if self[number] == path]

    def named(self, name: str) -> list[int]:
        """The numbers of all files of that name, in whatever folder."""
        return [number for number in self._by_name.find(hash(name)) if posixpath.basename(self[number]) == name]

    @cached_property
    def _by_path(self) -> "_Order":
        return _order(self._hashes)

    @cached_property
    def _by_name(self) -> "_Order":
        return _order(self._name_hashes)


class _Order(NamedTuple):
    """Hashes in their order, and whose each is."""

    hashes: np.ndarray
    numbers: np.ndarray

    def find(self, wanted: int) -> list[int]:
        first = end = int(np.searchsorted(self.hashes, np.int64(wanted)))
        # Nearly always there is one, or none.
        while end < len(self.hashes) and self.hashes[end] == wanted:
            end += 1
        return self.numbers[first:end].tolist() if end > first else []


def _order(hashes: "array[int]") -> _Order:
    found = np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64)
    numbers = np.argsort(found, kind="stable")
    # Half of the memory; an archive of four thousand million files is none that Python has opened.
    return _Order(found[numbers], numbers.astype(np.uint32))
