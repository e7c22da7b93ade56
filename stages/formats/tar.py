"""A tar read in place: where each member's bytes lie in it. It is never unpacked, and only its plain files are read."""

import os
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

from stages.formats.draft import UnreadableError
from stages.formats.files import stamped
from stages.formats.paths import Paths

BLOCK = tarfile.BLOCKSIZE
AGAIN = "copy or download it again"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar that is no folder: where its bytes begin, how many they are, and what they are."""

    offset: int
    size: int
    kind: Literal["file", "link", "other"]


KINDS: tuple[Literal["file", "link", "other"], ...] = ("file", "link", "other")


class Tar:
    """An open tar, and its members in its order by the names they have there, however wild these are.

    Some eighty bytes of memory a member, and its name. Several threads may read it.
    """

    def __init__(self, path: Path) -> None:
        """Open the tar and look at every header in it.

        Raises:
            ValueError: it is no tar, a compressed one, cut off, broken, or several in one.
        """
        self.names = Paths()
        self._offsets, self._sizes, self._kinds = array("Q"), array("Q"), array("B")
        try:
            self.file = path.open("rb")
        except OSError as error:
            raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            self.stamped = stamped(os.fstat(self.file.fileno()))
            for name, member in _listed(self.file, path):
                self.names.append(name)
                self._offsets.append(member.offset)
                self._sizes.append(member.size)
                self._kinds.append(KINDS.index(member.kind))
        except BaseException:
            self.file.close()
            raise

    @property
    def listed(self) -> Iterator[tuple[str, Member]]:
        """The members by their names, anew each time."""
        return ((self.names[number], self.member(number)) for number in range(len(self.names)))

    def member(self, number: int) -> Member:
        """The member of that number."""
        return Member(self._offsets[number], self._sizes[number], KINDS[self._kinds[number]])

    def stamp(self, number: int) -> str | None:
        """A text that changes whenever the member of that number may have."""
        return self.stamped and f"{self.stamped} {self._offsets[number]} {self._sizes[number]}"

    def read(self, member: Member, name: str, most: int) -> bytes:
        """The first `most` bytes of a member, which a row or the tar calls `name`.

        Raises:
            UnreadableError: it is a link, a device or the like, or the tar has changed since it was opened.
        """
        if member.kind == "link":
            raise UnreadableError(f"image_outside_source: {name} is a link inside the tar")
        if member.kind == "other":
            raise UnreadableError(f"image_not_readable: {name} is no regular file")
        try:
            content = os.pread(self.file.fileno(), min(member.size, most), member.offset)
        except OSError as error:
            raise UnreadableError(f"image_not_readable: {name}: {error.strerror}") from error
        if len(content) < min(member.size, most):
            raise UnreadableError(f"image_not_readable: {name}: the tar ends within it")
        return content

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()


def _listed(file: BinaryIO, path: Path) -> Iterator[tuple[str, Member]]:
    try:
        # Names are UTF-8 whatever the machine's own encoding is, so that a source reads the same everywhere.
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                # tarfile remembers all it has seen, a kilobyte a member; shards have hundreds of thousands.
                tar.members.clear()  # type: ignore[attr-defined]
                if info.size < 0 or tar.offset < info.offset_data:
                    # tarfile would go back there, and round and round for ever.
                    raise tarfile.ReadError(f"a member of negative size at byte {info.offset}")
                if not info.isdir():
                    yield info.name, Member(info.offset_data, info.size, _kind(info))
            end = tar.offset
    except Exception as error:
        # On broken headers tarfile raises what its parts raise: ReadError, ValueError, OverflowError, RecursionError, …
        hint = "it is compressed, and cannot be read in place: gunzip it or the like" if _is_compressed(file) else AGAIN
        raise ValueError(f"{path} is no whole tar: {error}; {hint}") from error
    _check_end(file, path, end)


def _kind(info: tarfile.TarInfo) -> Literal["file", "link", "other"]:
    if info.issym() or info.islnk():
        return "link"
    # A sparse file's bytes do not lie in the tar as they are.
    return "file" if info.isreg() and not info.issparse() else "other"


def _check_end(file: BinaryIO, path: Path, end: int) -> None:
    # tarfile takes a cut header or a broken one for the end, if only a whole member stood before it.
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ValueError(
            f"{path} is no whole tar: at byte {end} stands neither a member nor the tar's end, so it is cut off or broken; "
            f"{AGAIN}"
        )
    while rest := file.read(2**20):
        if rest.count(0) != len(rest):
            raise ValueError(f"{path} goes on behind its end, at byte {end}: several tars in one file? Give them one each")


def _is_compressed(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
