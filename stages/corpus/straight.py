"""A file that is written once, from its beginning to its end, straight to the disk, past the memory that holds files.

A store of pictures is larger than that memory, would push all else out of it, and is not read again soon. And memory that is
taken for a file has to come from somewhere: on a virtual machine, whose host takes back what is free, 76 KB of it took 0.16 ms,
a fifth of all that is done for a picture.
"""

import errno
import fcntl
import io
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE = 4 * 2**20
"""Bytes of one write; the disk takes whole blocks alone, and from memory at whole pages."""
STRAIGHT = getattr(os, "O_DIRECT", 0)
"""Linux has it."""


class StraightFile(io.FileIO):
    """A new file. What is less than a piece, and all of it where the file system refuses, goes the ordinary way."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` as `open` does."""
        self._memory = memoryview(mmap.mmap(-1, PIECE))
        self._full = 0
        self._straight = False
        super().__init__(path, "w")

    def write(self, content: "ReadableBuffer") -> int:
        """Take all of `content`.

        Raises:
            OSError: the disk is full, or broken.
        """
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest:
            taken = rest[: PIECE - self._full]
            self._memory[self._full : self._full + len(taken)] = taken
            self._full += len(taken)
            rest = rest[len(taken) :]
            if self._full == PIECE:
                self._put()
        return size

    def close(self) -> None:
        """Write what is left, and close; raises as `write`."""
        if not self.closed:
            try:
                self._put()
            finally:
                super().close()

    def _put(self) -> None:
        rest = self._memory[: self._full]
        self._full = 0
        self._go(straight=len(rest) == PIECE)
        while rest:
            try:
                rest = rest[os.write(self.fileno(), rest) :]
            except OSError as error:
                # Some file systems say only now that they cannot; and if the disk had no room but for a part, the rest may be
                # no whole block. Of what is really wrong the ordinary way tells.
                if error.errno != errno.EINVAL or not self._straight:
                    raise
                self._go(straight=False)

    def _go(self, straight: bool) -> None:
        """From now on straight, if the file system can, or not."""
        if straight == self._straight:
            return
        flags = fcntl.fcntl(self.fileno(), fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.fileno(), fcntl.F_SETFL, flags | STRAIGHT if straight else flags & ~STRAIGHT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            self._straight = straight
