"""The image store: each picture once, by the sha256 of its bytes as they came, with what a look at it found, in shards.

A shard holds pictures in the order in which their rows came, and ends when it is full; so which pictures share one hangs on
nothing else, and neither threads nor what was kept of earlier runs (`Kept`) changes a byte.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards
from stages.corpus.decoding import MAX_SIDE, Look, looks
from stages.corpus.kept import Kept, KeptShard
from stages.corpus.straight import StraightFile
from stages.running.compute import used
from stages.running.memo import place

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("whole", pa.bool_()),
        ("phash", pa.uint64()),
        ("bytes", pa.binary()),
    ]
)
ROWS_A_GROUP = 100
BLOCK = 16
"""Pictures handed to a thread at once: to hand one over costs a tenth of a look at it, and Python that has just been run is
run again in half the time."""
AHEAD = 3
"""Blocks handed out beforehand to each thread, so that none waits."""
HELD = 64 * 2**20
"""Bytes of pictures that may wait for their turn to be stored; while more do, none is handed out."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture that was read, and what a look at it found; None if it was not looked at, because it is stored already."""

    digest: bytes
    content: bytes
    look: Look | None


@dataclass(frozen=True, slots=True)
class _Block:
    """Some pictures on their way: of each its name, its file's key, its number among those kept; and the others, being read."""

    names: list[tuple[str, bytes | None, int]]
    read: Future[list[_Seen | Exception]] | None


class ImageWriter:
    """Collects images into `folder/images/00000.parquet`, …, a new shard each time `shard_mib` MiB are full."""

    def __init__(self, folder: Path, shard_mib: int, kept: Kept | None = None) -> None:
        """`kept`: of earlier runs; pictures that are the same then and now are neither read nor looked at nor written again."""
        self.folder = folder
        self.limit = shard_mib * 2**20
        self.kept = kept or Kept()
        self.known: set[bytes] = set()
        self.threads = min(used().processes, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self.threads)
        self.lock = threading.Lock()
        self.held = 0
        # Bytes of a picture, in the block that came back last; before one has, as large as may be.
        self.usual = float(HELD)
        self.shards = 0
        # Of the shard at hand: how much it has, and a kept one as long as that begins the same; else what was made of it.
        self.rows = self.bytes = 0
        self.same: KeptShard | None = None
        self.made = _Shard(self._path())

    def add(self, content: bytes) -> str:
        """Store `content` unless it is there already, and return its sha256 in hex."""
        return self._store(self._seen([content])[0]).hex()

    def knows(self, name: str) -> bool:
        """Whether an earlier run kept the picture of that name, which is as it was then."""
        _, (number,) = self.kept.numbers([name])
        return number >= 0

    def gather(
        self, read: Callable[[str], bytes], names: Sequence[str], refused: type[Exception]
    ) -> dict[str, str | Exception]:
        """Read and store the pictures of `names`, in their order; of each name the sha256 in hex, or why it was refused.

        `read` gives the picture of a name or raises `refused`; several threads call it at once. Memory holds some tens
        of pictures, and of large ones fewer: about `HELD` bytes.
        """
        found: dict[str, str | Exception] = {}
        waiting: deque[_Block] = deque()

        def take() -> None:
            block = waiting.popleft()
            looked = block.read.result() if block.read else []
            if sizes := [len(one.content) for one in looked if isinstance(one, _Seen)]:
                self.usual = sum(sizes) / len(sizes)
            seen = iter(looked)
            for name, key, number in block.names:
                digest = self._store_seen(next(seen)) if number < 0 else self._store_again(number, read, name, refused)
                if isinstance(digest, bytes):
                    self.kept.note(key, digest)
                found[name] = digest.hex() if isinstance(digest, bytes) else digest

        distinct = list(dict.fromkeys(names))
        known = list(zip(distinct, *self.kept.numbers(distinct), strict=True))
        first = 0
        while first < len(known):
            block = known[first : first + self._in_a_block()]
            first += len(block)
            new = [name for name, _, number in block if number < 0]
            waiting.append(_Block(block, self.pool.submit(self._read_all, read, new, refused) if new else None))
            while len(waiting) > AHEAD * self.threads or (waiting and self.held > HELD):
                take()
        while waiting:
            take()
        return found

    def _in_a_block(self) -> int:
        """So many pictures that all blocks which are out hold what may be held, if pictures are as large as those before."""
        room = HELD / (AHEAD * self.threads + 1)
        return max(1, min(BLOCK, int(room / max(self.usual, 1))))

    def _read_all(
        self, read: Callable[[str], bytes], names: Sequence[str], refused: type[Exception]
    ) -> list["_Seen | Exception"]:
        found = [self._read(read, name, refused) for name in names]
        contents = [content for content in found if isinstance(content, bytes)]
        self._hold(sum(map(len, contents)))
        seen = iter(self._seen(contents))
        return [next(seen) if isinstance(content, bytes) else content for content in found]

    def _store_seen(self, seen: "_Seen | Exception") -> bytes | Exception:
        if isinstance(seen, Exception):
            return seen
        self._hold(-len(seen.content))
        return self._store(seen)

    @staticmethod
    def _read(read: Callable[[str], bytes], name: str, refused: type[Exception]) -> bytes | Exception:
        try:
            return read(name)
        except refused as error:
            return error

    def _hold(self, size: int) -> None:
        with self.lock:
            self.held += size

    def _seen(self, contents: Sequence[bytes]) -> list[_Seen]:
        digests = [hashlib.sha256(content).digest() for content in contents]
        numbers = self.kept.find(digests)
        new = [n for n, number in enumerate(numbers) if number < 0 and digests[n] not in self.known]
        found = dict(zip(new, looks([contents[n] for n in new], MAX_SIDE), strict=True))
        return [
            _Seen(digests[n], contents[n], found.get(n) if number < 0 else self.kept.look(number))
            for n, number in enumerate(numbers)
        ]

    def _store_again(self, number: int, read: Callable[[str], bytes], name: str, refused: type[Exception]) -> bytes | Exception:
        """Store a kept picture, with its bytes from wherever they are cheap, and give its sha256."""
        digest = self.kept.digest(number)
        if digest in self.known or self._goes_on(digest):
            return self._store(_Seen(digest, b"", None))
        content = self.kept.content(number)
        if content is None:
            return self._store_seen(self._read_all(read, [name], refused)[0])
        return self._store(_Seen(digest, content, self.kept.look(number)))

    def _goes_on(self, digest: bytes) -> bool:
        """Whether the shard at hand, with that picture next, still begins as a kept one does."""
        same = self.same if self.rows else self.kept.beginning_with(digest)
        return same is not None and same.has(self.rows, digest)

    def _store(self, seen: _Seen) -> bytes:
        digest = seen.digest
        if digest in self.known:
            return digest
        self.known.add(digest)
        if self._goes_on(digest):
            self.same = self.same or self.kept.beginning_with(digest)
            assert self.same is not None
            size = int(self.same.sizes[self.rows])
        else:
            assert seen.look is not None, "a picture that was not looked at is stored already"
            self._make_what_was_same()
            self.made.append(digest, seen.content, seen.look)
            size = len(seen.content)
        self.rows += 1
        self.bytes += size
        if self.bytes >= self.limit:
            self._close_shard()
        return digest

    def _make_what_was_same(self) -> None:
        if self.same is not None:
            for row, content in enumerate(self.same.contents(self.rows)):
                self.made.append(self.same.digests[row].tobytes(), content, self.same.look(row))
            self.same = None

    def _close_shard(self) -> None:
        path = self._path()
        if self.same is not None and self.rows == len(self.same.digests):
            place(self.same.path, path)
            self.kept.keep_same(self.same)
        else:
            self._make_what_was_same()
            self.made.close()
            if self.rows:
                self.kept.keep(path, self.made.digests, self.made.sizes, self.made.looks)
        self.shards += 1
        self.rows, self.bytes, self.same, self.made = 0, 0, None, _Shard(self._path())

    def _path(self) -> Path:
        return self.folder / "images" / shards.name(self.shards)

    def __enter__(self) -> "ImageWriter":
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)
        if kind is not None:
            self.made.abandon()
            return
        # A store without pictures is a store too: one empty shard.
        if self.rows or not self.shards:
            self._close_shard()
        self.kept.forget()


class _Shard:
    """A shard that is being written, a group at a time, so that memory holds a hundred pictures and not a shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: pq.ParquetWriter | None = None
        self.disk: StraightFile | None = None
        self.digests: list[bytes] = []
        self.sizes: list[int] = []
        self.looks: list[Look] = []
        self.pending: list[bytes] = []

    def append(self, digest: bytes, content: bytes, seen: Look) -> None:
        self.digests.append(digest)
        self.sizes.append(len(content))
        self.looks.append(seen)
        self.pending.append(content)
        if len(self.pending) == ROWS_A_GROUP:
            self._write_group()

    def close(self) -> None:
        if self.pending or self.file is None:
            self._write_group()
        self.abandon()

    def abandon(self) -> None:
        if self.file is not None and self.disk is not None:
            with self.disk:
                self.file.close()

    def _write_group(self) -> None:
        if self.file is None:
            # Pictures are compressed already, and never alike: a second compression and a dictionary only cost time.
            self.disk = StraightFile(self.path)
            self.file = pq.ParquetWriter(
                self.disk, SCHEMA, compression="none", use_dictionary=["sha256"], write_statistics=False
            )
        first = len(self.digests) - len(self.pending)
        looks = self.looks[first:]
        columns = {
            "sha256": [digest.hex() for digest in self.digests[first:]],
            "width": [one.width for one in looks],
            "height": [one.height for one in looks],
            "whole": [one.whole for one in looks],
            "phash": [one.phash for one in looks],
            "bytes": pa.chunked_array([_as_array(content) for content in self.pending], pa.binary()),
        }
        self.file.write_table(pa.table(columns, schema=SCHEMA), row_group_size=ROWS_A_GROUP)
        self.pending = []


def _as_array(content: bytes) -> pa.Array:
    """An array of that one value, without a copy of it; while the main thread copies, the others wait."""
    return pa.Array.from_buffers(
        pa.binary(), 1, [None, pa.py_buffer(np.array([0, len(content)], np.int32)), pa.py_buffer(content)]
    )
