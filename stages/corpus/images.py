"""The image store: each picture once, by the sha256 of its bytes as they came, in Parquet shards."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema([("sha256", pa.string()), ("bytes", pa.binary())])
ROWS_A_GROUP = 100


class ImageWriter:
    """Collects images into `folder/images-00000.parquet`, …, a new shard each time `shard_mib` MiB are full."""

    def __init__(self, folder: Path, shard_mib: int) -> None:
        self.folder = folder
        self.limit = shard_mib * 2**20
        self.known: set[str] = set()
        self.pending: list[dict[str, str | bytes]] = []
        self.pending_bytes = 0
        self.shards = 0

    def add(self, content: bytes) -> str:
        """Store `content` unless it is there already, and return its sha256 in hex."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.known:
            self.known.add(digest)
            self.pending.append({"sha256": digest, "bytes": content})
            self.pending_bytes += len(content)
            if self.pending_bytes >= self.limit:
                self._flush()
        return digest

    def _flush(self) -> None:
        # Pictures are compressed already, and never alike: a second compression and a dictionary only cost time.
        pq.write_table(
            pa.Table.from_pylist(self.pending, schema=SCHEMA),
            self.folder / f"images-{self.shards:05d}.parquet",
            compression="none",
            use_dictionary=["sha256"],
            write_statistics=False,
            row_group_size=ROWS_A_GROUP,
        )
        self.shards += 1
        self.pending, self.pending_bytes = [], 0

    def __enter__(self) -> "ImageWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and (self.pending or not self.shards):
            self._flush()


def read_images(folders: Sequence[Path], wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """(sha256, bytes) of each image of the stores in `folders` once, of `wanted` only if given; in the stores' order."""
    seen: set[str] = set()
    for folder in folders:
        for shard in sorted(folder.glob("images-*.parquet")):
            for batch in pq.ParquetFile(shard).iter_batches(ROWS_A_GROUP):
                for digest, content in zip(batch["sha256"].to_pylist(), batch["bytes"], strict=True):
                    if digest not in seen and (wanted is None or digest in wanted):
                        seen.add(digest)
                        yield digest, content.as_py()


def stores(ingested: Path) -> list[Path]:
    """The image stores of all sources below the `ingest` stage's folder, in the sources' order."""
    return sorted(path.parent for path in ingested.glob("*/images-00000.parquet"))
