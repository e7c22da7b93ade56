"""A zip read in place: where each member's bytes lie in it. It is never unpacked, and only its plain files are read."""

import lzma
import os
import stat
import struct
import threading
import zipfile
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path

from stages.formats.draft import UnreadableError
from stages.formats.files import cause, stamped

HEADER = struct.Struct("<4s22xHH")
"""What stands before a member's bytes: a mark, and at the end how long the name and the extra field are that follow."""
ENCRYPTED_OR_PATCHED = 0x61
"""Flags of members that `zipfile` refuses, and has the words for."""


class Zip:
    """An open zip: some forty bytes of memory for each of its files. Several threads may read it."""

    def __init__(self, path: Path, listed: Callable[[str], None]) -> None:
        """Open the zip and call `listed` with the path of each file in it; their numbers are in that order.

        Raises:
            ValueError: it is no zip, cut off, or one that Python cannot read.
        """
        try:
            self.zip = zipfile.ZipFile(path)
        except NotImplementedError as error:
            raise ValueError(f"{path} wants more of a reader than Python's has: {error}; pack it anew") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is no whole zip: {error}; copy or download it again") from error
        self.lock = threading.Lock()
        self.file = path.open("rb")
        self.stamped = stamped(os.fstat(self.file.fileno()))
        self.offset, self.packed, self.size, self.crc = array("Q"), array("Q"), array("Q"), array("L")
        self.method, self.flags, self.mode = array("H"), array("H"), array("H")
        for info in self.zip.infolist():
            if not info.is_dir():
                listed(info.filename)
                self.offset.append(info.header_offset)
                self.packed.append(info.compress_size)
                self.size.append(info.file_size)
                self.crc.append(info.CRC)
                self.method.append(info.compress_type)
                self.flags.append(info.flag_bits)
                self.mode.append(info.external_attr >> 16)
        # zipfile remembers all it has seen, a kilobyte a member.
        self.zip.filelist.clear()
        self.zip.NameToInfo.clear()

    def __len__(self) -> int:
        return len(self.offset)

    def read(self, number: int, path: str, name: str, most: int) -> bytes:
        """The first `most` bytes of the file of that number and path, which a row calls `name`.

        Raises:
            UnreadableError: it is a link, encrypted or broken.
        """
        if stat.S_ISLNK(self.mode[number]):
            raise UnreadableError(f"image_outside_source: {name} is a link inside the zip")
        try:
            plain = self.method[number] in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if plain and not self.flags[number] & ENCRYPTED_OR_PATCHED:
                return self._plain(number, path, most)
            return self._by_zipfile(number, path, most)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: encrypted. NotImplementedError, a kind of it: a compression Python lacks.
            raise UnreadableError(f"image_not_readable: {name}: {cause(error)}") from error

    def _plain(self, number: int, path: str, most: int) -> bytes:
        """At its place, with no lock; `zipfile` counts its open members, and not in a way that threads can share."""
        file, offset, packed, size = self.file.fileno(), self.offset[number], self.packed[number], self.size[number]
        header = os.pread(file, HEADER.size, offset)
        if len(header) < HEADER.size or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("Bad magic number for file header")
        _, name_size, extra_size = HEADER.unpack(header)
        stored = self.method[number] == zipfile.ZIP_STORED
        content = os.pread(file, min(packed, most) if stored else packed, offset + HEADER.size + name_size + extra_size)
        if not stored:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, most)
        if len(content) < min(size, most):
            raise EOFError(f"it ends after {len(content)} of {size} bytes")
        if len(content) < most and zlib.crc32(content) != self.crc[number]:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {path!r}")
        return content

    def _by_zipfile(self, number: int, path: str, most: int) -> bytes:
        info = zipfile.ZipInfo(path)
        info.header_offset, info.compress_size, info.file_size = self.offset[number], self.packed[number], self.size[number]
        info.CRC, info.compress_type, info.flag_bits = self.crc[number], self.method[number], self.flags[number]
        with self.lock, self.zip.open(info) as file:
            return file.read(most)

    def stamp(self, number: int) -> str | None:
        """A text that changes whenever the file of that number may have."""
        return self.stamped and f"{self.stamped} {self.offset[number]} {self.crc[number]} {self.size[number]}"

    def close(self) -> None:
        """Nobody reads from it any more."""
        self.zip.close()
        self.file.close()
