"""A source's pictures, from a folder or from a zip or tar read in place, and never a byte from outside of it.

A row's name for its picture is looked up by three rules, the first that fits: the path below the root; the same with
non-ASCII letters as `#Uxxxx` (so old unzip writes them); and, if exactly one picture anywhere below the root has it, the
file name alone, because releases prefix names with folders of machines long gone (`./task_imgs/NAME`).
"""

import lzma
import os
import posixpath
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from stages.formats.draft import UnreadableError
from stages.formats.tar import Member, Tar

MAX_BYTES = 256 * 2**20
"""A larger file is no picture but a mistake, or a bomb: a zip of kilobytes can unfold to gigabytes."""


class Pictures(ABC):
    """A source's pictures: names in, bytes out."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of the picture a row calls `name`.

        Raises:
            UnreadableError: there is none, or several, or it lies outside, or its file is broken; the reason says which.
        """

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(  # noqa: B027 - most have nothing to close
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened; by default nothing was."""


class StoredPictures(Pictures):
    """What a folder, a zip and a tar have in common: the three rules, and the limits."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[str]] | None = None

    def read(self, name: str) -> bytes:
        """As `Pictures.read`."""
        content = self._bytes(self._find(name, _inside(name)), name)
        if not content:
            raise UnreadableError(f"empty_image: {name}")
        if len(content) > MAX_BYTES:
            raise UnreadableError(f"image_too_large: {name} has more than {MAX_BYTES // 2**20} MiB")
        return content

    def _find(self, name: str, path: str) -> str:
        for candidate in (path, _as_old_unzip_writes(path)):
            if self._has(candidate):
                return candidate
        if self.by_name is None:
            self.by_name = defaultdict(list)
            for known in self._all():
                self.by_name[posixpath.basename(known)].append(known)
        for candidate in (path, _as_old_unzip_writes(path)):
            found = self.by_name.get(posixpath.basename(candidate), [])
            if len(found) == 1:
                return found[0]
            if found:
                raise UnreadableError(f"ambiguous_image: {name} could be {' or '.join(sorted(found)[:2])}")
        raise UnreadableError(f"missing_image: {name}")

    @abstractmethod
    def _has(self, path: str) -> bool:
        """Whether there is a file of that path below the root."""

    @abstractmethod
    def _all(self) -> list[str]:
        """The paths of all files below the root."""

    @abstractmethod
    def _bytes(self, path: str, name: str) -> bytes:
        """The bytes at `path`, one more than `MAX_BYTES` at most; `name` is the row's word for it, for the reason."""


class FolderPictures(StoredPictures):
    """Pictures below a folder; a link is followed only while it stays below it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root.resolve()

    def _has(self, path: str) -> bool:
        try:
            return os.path.lexists(self.root / path) and not (self.root / path).is_dir()
        except OSError:  # a name too long for the file system is the name of nothing in it
            return False

    def _all(self) -> list[str]:
        return [
            (Path(folder) / name).relative_to(self.root).as_posix() for folder, _, names in os.walk(self.root) for name in names
        ]

    def _bytes(self, path: str, name: str) -> bytes:
        try:
            real = (self.root / path).resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise UnreadableError(f"image_not_readable: {name}: {_cause(error)}") from error
        if not real.is_relative_to(self.root):
            raise UnreadableError(f"image_outside_source: {name} is a link that leads out of the folder")
        try:
            # Opening a pipe that lies among the pictures would wait for ever.
            if not stat.S_ISREG(real.stat().st_mode):
                raise UnreadableError(f"image_not_readable: {name} is no regular file")
            with real.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnreadableError(f"image_not_readable: {name}: {_cause(error)}") from error


MemberT = TypeVar("MemberT")


class PackedPictures(StoredPictures, Generic[MemberT]):
    """Pictures inside one file, which is never unpacked; members whose names climb out of it are known, and refused."""

    def __init__(self, members: Mapping[str, MemberT]) -> None:
        super().__init__()
        self.members = members

    def _has(self, path: str) -> bool:
        return path in self.members

    def _all(self) -> list[str]:
        return list(self.members)

    def _bytes(self, path: str, name: str) -> bytes:
        _inside(path)
        return self._content(self.members[path], name)

    @abstractmethod
    def _content(self, member: MemberT, name: str) -> bytes:
        """A member's bytes, as `_bytes`."""


class ZipPictures(PackedPictures[zipfile.ZipInfo]):
    """Pictures inside a zip."""

    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except NotImplementedError as error:
            raise ValueError(f"{path} wants more of a reader than Python's has: {error}; pack it anew") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is no whole zip: {error}; copy or download it again") from error
        super().__init__({info.filename: info for info in self.zip.infolist() if not info.is_dir()})

    def _content(self, info: zipfile.ZipInfo, name: str) -> bytes:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UnreadableError(f"image_outside_source: {name} is a link inside the zip")
        try:
            with self.zip.open(info) as file:
                return file.read(MAX_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: encrypted. NotImplementedError, a kind of it: a compression Python lacks.
            raise UnreadableError(f"image_not_readable: {name}: {_cause(error)}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.zip.close()


class TarPictures(PackedPictures[Member]):
    """Pictures inside a tar; of members of one path the last, as on unpacking."""

    def __init__(self, path: Path) -> None:
        self.tar = Tar(path)
        # `tar -C images .` writes "./a.png". Names that climb out stay as they are, and are refused when they are asked for.
        super().__init__({posixpath.normpath(name.replace("\\", "/")): member for name, member in self.tar.listed})

    def _content(self, member: Member, name: str) -> bytes:
        return self.tar.read(member, name, MAX_BYTES + 1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.tar.__exit__(kind, error, trace)


class NoPictures(Pictures):
    """For a source of text alone."""

    def read(self, name: str) -> bytes:
        """Always refused; a name that climbs out is still told as one."""
        _inside(name)
        raise UnreadableError(f"missing_image: {name} (params name no images for this source)")


def open_pictures(path: Path | None) -> Pictures:
    """The pictures at `path`: a folder, a zip, an uncompressed tar, or None.

    Raises:
        ValueError: there is nothing, or something else.
    """
    if path is None:
        return NoPictures()
    if path.is_dir():
        return FolderPictures(path)
    if path.is_file():
        return TarPictures(path) if _is_tar(path) else ZipPictures(path)
    raise ValueError(f"there is no folder, zip or tar {path}; its name comes from this source's `images` in params.yaml")


def _is_tar(path: Path) -> bool:
    # A compressed one too, so that the reason it is refused is the right one.
    return ".tar" in path.suffixes[-2:] or path.suffix == ".tgz"


def _inside(name: str) -> str:
    """`name` as a plain path below the root, or `UnreadableError` if it leads anywhere else."""
    if not name.strip() or "\0" in name:
        raise UnreadableError(f"missing_image: {name!r} is no file name")
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith(("/", "../")) or path == "..":
        raise UnreadableError(f"image_outside_source: {name}")
    return path


def _as_old_unzip_writes(path: str) -> str:
    return "".join(letter if letter.isascii() else f"#U{ord(letter):04x}" for letter in path)


def _cause(error: Exception) -> str:
    # The whole message of an OSError holds the absolute path, which differs between machines.
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
