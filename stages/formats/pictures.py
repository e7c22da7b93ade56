"""A source's pictures, from a folder or from archives read in place, and never a byte from outside of it.

A row's name for its picture is looked up by three rules, the first that fits: the path below the root; the same with
non-ASCII letters as `#Uxxxx` (so old unzip writes them); and, if exactly one picture anywhere below the root has it, the
file name alone, because releases prefix names with folders of machines long gone (`./task_imgs/NAME`). Several archives
(`images/*.tar`) are one root: a path that two of them have is ambiguous too.
"""

import os
import posixpath
import stat
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from types import TracebackType
from typing import Protocol

from stages.formats.draft import UnreadableError
from stages.formats.files import cause, stamped
from stages.formats.paths import Paths
from stages.formats.picture_rows import PictureRows
from stages.formats.tar import Tar
from stages.formats.zips import Zip

MAX_BYTES = 256 * 2**20
"""A larger file is no picture but a mistake, or a bomb: a zip of kilobytes can unfold to gigabytes."""


class Pictures(ABC):
    """A source's pictures: names in, bytes out. Several threads may read."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of the picture a row calls `name`.

        Raises:
            UnreadableError: there is none, or several, or it lies outside, or its file is broken; the reason says which.
        """

    @abstractmethod
    def stamp(self, name: str) -> str | None:
        """A text that changes whenever the picture a row calls `name` may have, without reading it; None if nobody can tell."""

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(  # noqa: B027 - most have nothing to close
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened; by default nothing was."""


class FolderPictures(Pictures):
    """Pictures below a folder; a link is followed only while it stays below it."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.lock = threading.Lock()
        self.real: dict[str, str] = {}
        """Of each folder that was asked for, where it really is."""

    def read(self, name: str) -> bytes:
        """As `Pictures.read`."""
        return confined(self._content(self._find(name), name), name)

    def stamp(self, name: str) -> str | None:
        """As `Pictures.stamp`."""
        try:
            path = self._find(name)
            about = Path(self.root, path).stat()
        except (UnreadableError, OSError):
            return None
        changed = stamped(about)
        return changed and f"{path} {changed}"

    def _find(self, name: str) -> str:
        path = _inside(name)
        for candidate in (path, _as_old_unzip_writes(path)):
            if self._has(candidate):
                return candidate
        with self.lock:
            paths = self._paths
        for candidate in (path, _as_old_unzip_writes(path)):
            found = paths.named(posixpath.basename(candidate))
            if found:
                return _only([paths[number] for number in found], name)
        raise UnreadableError(f"missing_image: {name}")

    def _has(self, path: str) -> bool:
        place = f"{self.root}/{path}"
        try:
            mode = os.lstat(place).st_mode
        except OSError:  # among others, a name too long for the file system is the name of nothing in it
            return False
        return not (stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and Path(place).is_dir()))

    @cached_property
    def _paths(self) -> Paths:
        paths = Paths()
        for folder, _, names in os.walk(self.root):
            below = os.path.relpath(folder, self.root)
            for name in names:
                paths.append(name if below == "." else f"{below}/{name}")
        return paths

    def _content(self, path: str, name: str) -> bytes:
        try:
            real = self._really(path)
            if not real.startswith(f"{self.root}/"):
                raise UnreadableError(f"image_outside_source: {name} is a link that leads out of the folder")
            # Without O_NONBLOCK, opening a pipe that lies among the pictures would wait for ever.
            file = os.open(real, os.O_RDONLY | os.O_NONBLOCK)
            try:
                about = os.fstat(file)
                if not stat.S_ISREG(about.st_mode):
                    raise UnreadableError(f"image_not_readable: {name} is no regular file")
                return _whole(file, about.st_size)
            finally:
                os.close(file)
        except (OSError, RuntimeError) as error:  # among others, links in a circle
            raise UnreadableError(f"image_not_readable: {name}: {cause(error)}") from error

    def _really(self, path: str) -> str:
        """Where `path` leads. To ask that of each folder on the way to each file would cost more than to read the file."""
        folder, file = posixpath.split(path)
        if folder not in self.real:
            self.real[folder] = str(Path(self.root, folder).resolve())
        place = f"{self.real[folder]}/{file}"
        return str(Path(place).resolve()) if stat.S_ISLNK(os.lstat(place).st_mode) else place


class Archive(Protocol):
    """A file of many files, open; their numbers are in the order in which their paths were listed."""

    def __len__(self) -> int: ...

    def read(self, number: int, path: str, name: str, most: int) -> bytes:
        """The first `most` bytes of a file; `name` is the row's word for it, for the reason it is refused."""
        ...

    def stamp(self, number: int) -> str | None:
        """A text that changes whenever the file may have."""
        ...

    def close(self) -> None:
        """Nobody reads from it any more."""
        ...


class TarFiles:
    """A tar's members, by their paths."""

    def __init__(self, path: Path, listed: Callable[[str], None]) -> None:
        self.tar = Tar(path)
        for name, _ in self.tar.listed:
            # `tar -C images .` writes "./a.png". Names that climb out stay as they are, and are refused when asked for.
            listed(posixpath.normpath(name.replace("\\", "/")))

    def __len__(self) -> int:
        return len(self.tar.names)

    def read(self, number: int, path: str, name: str, most: int) -> bytes:
        """As `Archive.read`."""
        return self.tar.read(self.tar.member(number), name, most)

    def stamp(self, number: int) -> str | None:
        """As `Archive.stamp`."""
        return self.tar.stamp(number)

    def close(self) -> None:
        """As `Archive.close`."""
        self.tar.file.close()


class PackedPictures(Pictures):
    """Pictures inside archives, which are never unpacked; members whose names climb out of them are known, and refused."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.paths = Paths()
        self.opened = ExitStack()
        self.archives: list[Archive] = []
        with ExitStack() as opened:
            for file in files:
                archive: Archive = _kind(file)(file, self.paths.append)
                opened.callback(archive.close)
                self.archives.append(archive)
            self.opened = opened.pop_all()
        self.starts = [0, *accumulate(len(archive) for archive in self.archives)]

    def read(self, name: str) -> bytes:
        """As `Pictures.read`."""
        number = self._find(name)
        path = self.paths[number]
        _inside(path)
        archive, own = self._lies(number)
        return confined(self.archives[archive].read(own, path, name, MAX_BYTES + 1), name)

    def stamp(self, name: str) -> str | None:
        """As `Pictures.stamp`."""
        try:
            number = self._find(name)
        except UnreadableError:
            return None
        archive, own = self._lies(number)
        changed = self.archives[archive].stamp(own)
        return changed and f"{self.files[archive].name} {self.paths[number]} {changed}"

    def _find(self, name: str) -> int:
        path = _inside(name)
        both = dict.fromkeys((path, _as_old_unzip_writes(path)))
        for found in chain(map(self.paths.of, both), (self.paths.named(posixpath.basename(one)) for one in both)):
            # Of members of one path the last, as on unpacking; but of several archives nobody knows which was unpacked last.
            last = {(self._lies(number)[0], self.paths[number]): number for number in found}
            if last:
                several = len(self.files) > 1
                places = {f"{self.files[one].name}: {path}" if several else path: last[one, path] for one, path in last}
                return places[_only(list(places), name)]
        raise UnreadableError(f"missing_image: {name}")

    def _lies(self, number: int) -> tuple[int, int]:
        """The archive that a file is in, and its number there."""
        archive = bisect_right(self.starts, number) - 1
        return archive, number - self.starts[archive]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.opened.close()


class NoPictures(Pictures):
    """For a source of text alone."""

    def read(self, name: str) -> bytes:
        """Always refused; a name that climbs out is still told as one."""
        _inside(name)
        raise UnreadableError(f"missing_image: {name} (params name no images for this source)")

    def stamp(self, name: str) -> None:
        """There is nothing."""


def open_pictures(path: Path | None) -> Pictures:
    """The pictures at `path`: a folder; a zip, an uncompressed tar, a Parquet file; a pattern of such files; or None.

    Raises:
        ValueError: there is nothing, or something else.
    """
    if path is None:
        return NoPictures()
    if path.is_dir():
        return FolderPictures(path)
    return PackedPictures([path] if path.is_file() else _fitting(path))


def _fitting(pattern: Path) -> list[Path]:
    """The files that `pattern` fits, in the order of their paths, hidden ones apart."""
    plain = [number for number, part in enumerate(pattern.parts) if not set(part) & set("*?[")]
    first = next((number for number in range(len(pattern.parts)) if number not in plain), len(pattern.parts))
    folder = Path(*pattern.parts[:first])
    if first == len(pattern.parts) or not folder.is_dir():
        raise ValueError(
            f"there is no folder, zip or tar {pattern}, and no such Parquet file; its name comes from this source's `images` "
            "in params.yaml"
        )
    found = [path for path in folder.glob("/".join(pattern.parts[first:])) if path.is_file()]
    files = sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not files:
        raise ValueError(f"no file fits {pattern}; it comes from this source's `images` in params.yaml")
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{file} is a link that leads out of {folder}; put what it leads to in the folder")
    return files


def _kind(path: Path) -> type[TarFiles] | type[PictureRows] | type[Zip]:
    # A compressed tar too, so that the reason it is refused is the right one.
    if ".tar" in path.suffixes[-2:] or path.suffix == ".tgz":
        return TarFiles
    return PictureRows if path.suffix == ".parquet" else Zip


def _inside(path: str) -> str:
    """`path` as a plain one below the root, or `UnreadableError` if it leads anywhere else."""
    if not path.strip() or "\0" in path:
        raise UnreadableError(f"missing_image: {path!r} is no file name")
    plain = posixpath.normpath(path.replace("\\", "/"))
    if plain.startswith(("/", "../")) or plain == "..":
        raise UnreadableError(f"image_outside_source: {path}")
    return plain


def _only(paths: Sequence[str], name: str) -> str:
    if len(paths) > 1:
        raise UnreadableError(f"ambiguous_image: {name} could be {' or '.join(sorted(paths)[:2])}")
    return paths[0]


def confined(content: bytes, name: str) -> bytes:
    """`content` itself, unless it is empty or larger than any picture; `name` is what its row calls it."""
    if not content:
        raise UnreadableError(f"empty_image: {name}")
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"image_too_large: {name} has more than {MAX_BYTES // 2**20} MiB")
    return content


def _whole(file: int, size: int) -> bytes:
    """All of an open file of so many bytes, but one byte more than `MAX_BYTES` at most."""
    most = min(size, MAX_BYTES + 1)
    content = os.read(file, most)
    # A single read gives less where a signal came between, or the file shrank.
    while len(content) < most and (part := os.read(file, most - len(content))):
        content += part
    return content


def _as_old_unzip_writes(path: str) -> str:
    return path if path.isascii() else "".join(letter if letter.isascii() else f"#U{ord(letter):04x}" for letter in path)
