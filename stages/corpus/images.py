"""The image store: each picture once, by the sha256 of its bytes as they came, with what a look at it found, in shards."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards
from stages.corpus.decoding import MAX_SIDE, Look, look

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


class ImageWriter:
    """Collects images into `folder/images/00000.parquet`, …, a new shard each time `shard_mib` MiB are full."""

    def __init__(self, folder: Path, shard_mib: int) -> None:
        self.folder = folder
        self.limit = shard_mib * 2**20
        self.known: set[str] = set()
        self.pending: list[dict[str, Any]] = []
        self.shard: pq.ParquetWriter | None = None
        self.shard_bytes = 0
        self.shards = 0

    def add(self, content: bytes) -> str:
        """Store `content` unless it is there already, and return its sha256 in hex."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.known:
            self.known.add(digest)
            self.pending.append({"sha256": digest, **asdict(look(content, MAX_SIDE)), "bytes": content})
            self.shard_bytes += len(content)
            full = self.shard_bytes >= self.limit
            if full or len(self.pending) == ROWS_A_GROUP:
                self._write_group()
            if full:
                self._close_shard()
        return digest

    def gather(
        self, read: Callable[[str], bytes], names: Sequence[str], refused: type[Exception]
    ) -> dict[str, str | Exception]:
        """Store `read(name)` for each of `names`, in their order; each name's sha256, or what kind of `refused` was raised."""
        found: dict[str, str | Exception] = {}
        for name in names:
            try:
                found[name] = self.add(read(name))
            except refused as error:
                found[name] = error
        return found

    def _write_group(self) -> None:
        # A group at a time, so that memory holds a hundred pictures and not a shard.
        if self.shard is None:
            # Pictures are compressed already, and never alike: a second compression and a dictionary only cost time.
            self.shard = pq.ParquetWriter(
                self.folder / "images" / shards.name(self.shards),
                SCHEMA,
                compression="none",
                use_dictionary=["sha256"],
                write_statistics=False,
            )
            self.shards += 1
        self.shard.write_table(pa.Table.from_pylist(self.pending, schema=SCHEMA), row_group_size=ROWS_A_GROUP)
        self.pending = []

    def _close_shard(self) -> None:
        if self.shard is not None:
            self.shard.close()
        self.shard, self.shard_bytes = None, 0

    def __enter__(self) -> "ImageWriter":
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A store without pictures is a store too: one empty shard.
        if kind is None and (self.pending or not self.shards):
            self._write_group()
        self._close_shard()


def read_images(folders: Sequence[Path], wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """(sha256, bytes) of each image of the stores in `folders` once, of `wanted` only if given; in the stores' order."""
    seen: set[str] = set()
    for folder in folders:
        for shard in shards.of(folder / "images"):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(ROWS_A_GROUP, columns=["sha256", "bytes"]):
                    for digest, content in zip(batch["sha256"].to_pylist(), batch["bytes"], strict=True):
                        if digest not in seen and (wanted is None or digest in wanted):
                            seen.add(digest)
                            yield digest, content.as_py()


def read_looks(folders: Sequence[Path]) -> dict[str, Look]:
    """What a look at each picture of the stores in `folders` found; none is decoded again."""
    columns = ["sha256", "whole", "width", "height", "phash"]
    return {
        row.pop("sha256"): Look(**row)
        for folder in folders
        for shard in shards.of(folder / "images")
        for row in pq.read_table(shard, columns=columns).to_pylist()
    }


def stores(ingested: Path) -> list[Path]:
    """The image stores of all sources below the `ingest` stage's folder, in the sources' order."""
    # A name that begins with a dot is what a killed run left behind, half written.
    return sorted(path.parent for path in ingested.glob("[!.]*/images"))
