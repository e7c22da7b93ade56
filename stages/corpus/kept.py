"""What is kept of a source's pictures from one run to the next, so that each is read, and looked at, once.

Three things, below `.work`, where nothing is lost but time if it is removed: of each name, what its file was then (`stamp`) and
which picture that gave; of each picture, what a look at it found; and the store's shards, under a second name. A name
whose file is as it was need not be read: its picture lies in a kept shard. A shard all of whose pictures come again in the same
order is not even written again.

Beside each shard lies an index of it, written after it; so what a killed run left is as good as what it finished.
"""

import hashlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus.decoding import Look
from stages.running.memo import digest as digest_of
from stages.running.memo import place

MADE_BY = ("numpy", "pillow", "pyarrow", "simplejpeg")
"""The libraries whose versions may change what a look finds, or a shard's bytes."""
KEY = 16
"""Bytes of a key."""
FIELDS = ("digests", "sizes", "whole", "width", "height", "phash", "has_phash")
"""What an index says of its shard's pictures, besides what names gave them."""
GROUPS = 4
"""Row groups of kept shards in memory at once."""
SPARE = 256 * 2**20
"""Bytes that may be read of kept shards beyond four times those that were wanted."""


class Kept:
    """A source's pictures of earlier runs, and the notes of this one; without a folder nothing is kept."""

    def __init__(self, folder: Path | None = None, stamp: Callable[[str], str | None] = lambda name: None) -> None:
        """`stamp`: of a name, a text that changes whenever its file may have; None if it cannot be told, or there is none."""
        self.folder = folder
        self.stamp = stamp
        self.code = _code()
        self.noted: dict[bytes, bytes] = {}
        self.asked: set[str] = set()
        parts = list(_parts(folder, self.code)) if folder else []
        self.shards = [KeptShard(path, part) for path, part in parts if path is not None]
        self._first = {one.digests[0].tobytes(): one for one in sorted(self.shards, key=lambda one: len(one.digests))}
        self._digests = _joined([one.digests for one in self.shards], 32)
        self._shard = np.repeat(np.arange(len(self.shards)), [len(one.digests) for one in self.shards])
        self._start = np.cumsum([0, *(len(one.digests) for one in self.shards)])
        self._by_digest = _Index(self._digests)
        keys = _joined([part["keys"] for _, part in parts], KEY)
        pictures = self._by_digest.find(_joined([part["named"] for _, part in parts], 32))
        self._by_key = _Index(keys[pictures >= 0])
        self._of_key = pictures[pictures >= 0]
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._read = self._wanted = 0

    def numbers(self, names: Sequence[str]) -> tuple[list[bytes | None], list[int]]:
        """Of each name the key of its file as it is now, None if it has none; and the number of its picture, -1 if not kept."""
        if self.folder is None:
            return [None] * len(names), [-1] * len(names)
        keys = [self._key(name) for name in names]
        found = self._by_key.find(np.frombuffer(b"".join(key or bytes(KEY) for key in keys), np.uint8).reshape(-1, KEY))
        known = [key is not None and number >= 0 for key, number in zip(keys, found, strict=True)]
        return keys, [int(self._of_key[number]) if is_known else -1 for number, is_known in zip(found, known, strict=True)]

    def _key(self, name: str) -> bytes | None:
        stamp = self.stamp(name)
        if stamp is None:
            return None
        return hashlib.blake2b(f"{name}\0{stamp}".encode(errors="surrogatepass"), digest_size=KEY).digest()

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """Of each sha256 the number of its picture; -1 if it is not kept."""
        return self._by_digest.find(_matrix(digests, 32)).tolist()

    def digest(self, number: int) -> bytes:
        """A picture's sha256."""
        return self._digests[number].tobytes()

    def look(self, number: int) -> Look:
        """What the look at a picture found."""
        shard, row = self._lies(number)
        return self.shards[shard].look(row)

    def content(self, number: int) -> bytes | None:
        """A picture's bytes; None if it is cheaper to read it from the source, for its neighbours are not wanted.

        A Parquet file gives a hundred pictures or none. Where they come in about the order of last time, that costs nothing.
        """
        shard, row = self._lies(number)
        group, row = self.shards[shard].group_of(row)
        if (shard, group) not in self._groups:
            size = self.shards[shard].group_bytes(group)
            if self._read + size > 4 * self._wanted + SPARE:
                return None
            self._groups[shard, group] = self.shards[shard].group(group)
            self._read += size
            if len(self._groups) > GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((shard, group))
        content = self._groups[shard, group]["bytes"][row].as_py()
        self._wanted += len(content)
        return content

    def _lies(self, number: int) -> tuple[int, int]:
        shard = int(self._shard[number])
        return shard, number - int(self._start[shard])

    def beginning_with(self, digest: bytes) -> "KeptShard | None":
        """The kept shard whose first picture has that sha256; of several the longest."""
        return self._first.get(digest)

    def note(self, key: bytes | None, digest: bytes) -> None:
        """The file of `key` gave the picture of that sha256."""
        if key is not None:
            self.noted[key] = digest

    def keep(self, path: Path, digests: Sequence[bytes], sizes: Sequence[int], looks: Sequence[Look]) -> None:
        """Keep the shard at `path`, which nobody writes to any more, and what was noted since the last one."""
        if self.folder is None:
            return
        part = {
            "digests": _matrix(digests, 32),
            "sizes": np.array(sizes, np.int64),
            "whole": np.array([-1 if one.whole is None else one.whole for one in looks], np.int8),
            "width": np.array([-1 if one.width is None else one.width for one in looks], np.int32),
            "height": np.array([-1 if one.height is None else one.height for one in looks], np.int32),
            "phash": np.array([one.phash or 0 for one in looks], np.uint64),
            "has_phash": np.array([one.phash is not None for one in looks], np.bool_),
        }
        name = hashlib.sha256(b"".join(digests)).hexdigest()
        kept = self.folder / f"{name}.parquet"
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._partial(kept)
        place(path, partial)
        partial.replace(kept)
        self._write(name, part, kept)

    def keep_same(self, shard: "KeptShard") -> None:
        """Keep a shard once more, as it was, with what was noted since the last one."""
        self._write(shard.path.stem, shard.part, shard.path)

    def forget(self) -> None:
        """At the end of a run that ended well: write what is left to note, and forget what the run did not ask for."""
        if self.folder is None:
            return
        if self.noted:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write("names", {}, None)
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.stem not in self.asked:
                    path.unlink(missing_ok=True)

    def _write(self, name: str, part: dict[str, np.ndarray], shard: Path | None) -> None:
        assert self.folder is not None
        made = {
            **{field: array for field, array in part.items() if field in FIELDS},
            "keys": _matrix(list(self.noted), KEY),
            "named": _matrix(list(self.noted.values()), 32),
            "code": np.array(self.code),
            "stamp": np.array(_stamp(shard) if shard else ""),
        }
        partial = self._partial(self.folder / f"{name}.npz")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        partial.replace(self.folder / f"{name}.npz")
        self.asked.add(name)
        self.noted = {}

    @staticmethod
    def _partial(path: Path) -> Path:
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        return partial


class KeptShard:
    """A shard of an earlier run's store, and what its index says of it."""

    def __init__(self, path: Path, part: dict[str, np.ndarray]) -> None:
        self.path = path
        self.part = part
        self.digests = part["digests"]
        self.sizes = part["sizes"]
        self._metadata: pq.FileMetaData | None = None
        self._group_ends: np.ndarray | None = None

    def has(self, row: int, digest: bytes) -> bool:
        """Whether its row of that number is that picture."""
        return row < len(self.digests) and self.digests[row].tobytes() == digest

    def look(self, row: int) -> Look:
        """What the look at a row's picture found."""
        whole, width, height = (int(self.part[name][row]) for name in ("whole", "width", "height"))
        return Look(
            None if whole < 0 else bool(whole),
            None if width < 0 else width,
            None if height < 0 else height,
            int(self.part["phash"][row]) if self.part["has_phash"][row] else None,
        )

    def group_of(self, row: int) -> tuple[int, int]:
        """The row group that a row is in, and its number there."""
        group = int(np.searchsorted(self._ends(), row, side="right"))
        return group, row - (int(self._ends()[group - 1]) if group else 0)

    def group_bytes(self, group: int) -> int:
        """How many bytes the pictures of a row group have."""
        return int(self.sizes[int(self._ends()[group - 1]) if group else 0 : int(self._ends()[group])].sum())

    def group(self, group: int) -> pa.Table:
        """A row group's pictures, `bytes` alone."""
        with pq.ParquetFile(self.path, metadata=self._about()) as file:
            return file.read_row_group(group, columns=["bytes"])

    def contents(self, rows: int) -> Iterator[bytes]:
        """The pictures of its first so many rows."""
        for group in range(self._about().num_row_groups):
            if rows > 0:
                found = self.group(group)["bytes"].slice(0, rows)
                rows -= len(found)
                yield from (one.as_py() for one in found)

    def _about(self) -> pq.FileMetaData:
        if self._metadata is None:
            self._metadata = pq.read_metadata(self.path)
        return self._metadata

    def _ends(self) -> np.ndarray:
        if self._group_ends is None:
            about = self._about()
            self._group_ends = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])
        return self._group_ends


class _Index:
    """Which of many digests is which; of equal ones the first."""

    def __init__(self, digests: np.ndarray) -> None:
        """`digests`: bytes, one a row, eight a row at least."""
        firsts = _first_eight(digests)
        self.digests = digests
        self.order = np.argsort(firsts, kind="stable")
        self.firsts = firsts[self.order]

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """The number of each digest of `wanted`; -1 if it is none of them."""
        if not len(self.digests) or not len(wanted):
            return np.full(len(wanted), -1)
        place = np.searchsorted(self.firsts, _first_eight(wanted))
        number = self.order[np.minimum(place, len(self.order) - 1)]
        # Two that differ and begin alike: one is not found, which costs a reading of it.
        return np.where((self.digests[number] == wanted).all(axis=1), number, -1)


def _first_eight(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()


def _matrix(digests: Sequence[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, width)


def _joined(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.empty((0, width), np.uint8), *parts])


def _parts(folder: Path, code: str) -> Iterator[tuple[Path | None, dict[str, np.ndarray]]]:
    """What was kept in `folder` and is sound: the shard, if there is one, and its index."""
    for index in sorted(folder.glob("[!.]*.npz")):
        try:
            with index.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                part = {name: arrays[name] for name in arrays.files}
            shard = index.with_suffix(".parquet") if part["stamp"] else None
            if part["code"] == code and (shard is None or part["stamp"] == _stamp(shard)):
                yield shard, part
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # Cut off by a full disk, half removed, or of another age: as if it were not there.
            continue


def _code() -> str:
    """A name for all that makes a shard's bytes of a picture's."""
    files = sorted(Path(__file__).with_name(name) for name in ("decoding.py", "images.py", "kept.py", "straight.py"))
    return digest_of(*files, [[name, version(name)] for name in MADE_BY])


def _stamp(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns}"
