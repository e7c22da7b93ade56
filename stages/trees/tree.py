"""The tree: one image prefix, several branches; and a table of trees in Parquet."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards


@dataclass(frozen=True, slots=True)
class Branch:
    """One conversation of a tree, after the prefix. It sees the prefix and itself, never a sibling."""

    source: str
    row: int
    task: str
    kind: str
    ids: tuple[int, ...]
    """Token ids."""
    supervised: tuple[bool, ...]
    """For each token, whether the loss asks for it: the tokens of the answers, and no others."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All examples behind one picture or set of pictures."""

    images: tuple[str, ...]
    """sha256 of each picture, in order; none for text alone."""
    prefix: tuple[int, ...]
    """Token ids up to the last image token; shared by all branches."""
    branches: tuple[Branch, ...]

    @property
    def tokens(self) -> int:
        """Tokens a model reads for this tree."""
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)


BRANCH = {
    "source": pa.string(),
    "row": pa.int64(),
    "task": pa.string(),
    "kind": pa.string(),
    "ids": pa.list_(pa.int32()),
    "supervised": pa.list_(pa.bool_()),
}
SCHEMA = pa.schema(
    {"images": pa.list_(pa.string()), "prefix": pa.list_(pa.int32()), "branches": pa.list_(pa.struct(BRANCH.items()))}
)
ROWS_A_GROUP = 1000


def write(path: Path, trees: Iterable[Tree]) -> None:
    """Write `trees` as one Parquet file, in a folder made for it; equal trees give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grown = list(trees)
    columns = {
        "images": [tree.images for tree in grown],
        "prefix": [tree.prefix for tree in grown],
        "branches": [[{name: getattr(branch, name) for name in BRANCH} for branch in tree.branches] for tree in grown],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path, row_group_size=ROWS_A_GROUP)


def read_all(folder: Path) -> list[Tree]:
    """The trees of all shards in `folder`."""
    return [tree for shard in shards.of(folder) for tree in read(shard)]


def read(path: Path) -> list[Tree]:
    """The trees of a file that `write` made."""
    return [
        Tree(
            images=tuple(row["images"]),
            prefix=tuple(row["prefix"]),
            branches=tuple(
                Branch(**{**branch, "ids": tuple(branch["ids"]), "supervised": tuple(branch["supervised"])})
                for branch in row["branches"]
            ),
        )
        for row in pq.read_table(path, schema=SCHEMA).to_pylist()
    ]
