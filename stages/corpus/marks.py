"""What choosing rows needs to know of each, some hundred bytes where the row itself has thousands: its marks.

A process looks at a shard's rows once (`look_at`); the decisions over all rows are then made on the marks of all shards
together (`gathered`), columns of numbers in which no row is an object.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.corpus.example import IMAGE
from stages.corpus.text import agrees

Numbers = NDArray[np.int64]
WORD = r"[+-]?\p{N}+(?:[.,:/]\p{N}+)*|[\p{L}\p{M}\p{N}]+|\p{S}"
"""What counts of a text when two are compared loosely: words, numbers with their sign and their point, and symbols. Unlike the
words of `ngrams`, "-1.5" is one, and "+" says something."""
AT_ONCE = 5_000
"""Rows whose texts are held joined, to take their digests."""
NO_SIDE, DENIES, AGREES = -1, 0, 1
"""What a row's answer does to its question: neither, for it is no judgement; No; Yes."""

SCHEMA = pa.schema(
    [
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("task", pa.dictionary(pa.int32(), pa.string())),
        ("domain", pa.dictionary(pa.int32(), pa.string())),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("content", pa.uint64()),
        ("content_low", pa.uint64()),
        ("said", pa.uint64()),
        ("said_low", pa.uint64()),
        ("draw", pa.float64()),
        ("side", pa.int8()),
        ("pictures", pa.list_(pa.int32())),
    ]
)
"""Marks of a shard's rows. `content` and `said` are digests of 128 bits, in halves; `pictures` are places in `PICTURES`."""
PICTURES = pa.schema([("sha256", pa.string()), ("split", pa.float64())])
"""A shard's pictures, each once."""


def rank(seed: int, what: str, content: str) -> float:
    """A number in [0, 1) that only `content`, the seed and the purpose decide."""
    digest = hashlib.sha256(f"{seed}|{what}|{content}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def looking(seed: int, near: bool) -> Callable[[pa.Table], tuple[pa.Table, pa.Table]]:
    """What a process does with a shard; for `workers.mapped`."""
    return lambda rows: look_at(rows, seed, near)


def look_at(rows: pa.Table, seed: int, near: bool) -> tuple[pa.Table, pa.Table]:
    """The marks of `rows`, a table of `example.SCHEMA`, in their order (`SCHEMA`), and their pictures (`PICTURES`).

    Without `near` no text is compared loosely, and `said` is 0.
    """
    contents, said = [], []
    for first in range(0, len(rows), AT_ONCE):
        part = rows.slice(first, AT_ONCE).combine_chunks()
        contents += [hashlib.sha256(text).hexdigest() for text in content(part).cast(pa.binary()).to_pylist()]
        if near:
            texts = _spoken(part).cast(pa.binary()).to_pylist()
            said += [hashlib.blake2b(text, digest_size=16).hexdigest() for text in texts]
    rows = rows.combine_chunks()
    images = _list(rows["images"])
    pictures = images.flatten().dictionary_encode()
    names = pictures.dictionary.cast(pa.string())
    marks = pa.table(
        {
            **{name: _plain(rows[name]).dictionary_encode() for name in ("source", "task", "domain", "kind")},
            "row": _plain(rows["row"]),
            **_halves("content", contents),
            **_halves("said", said if near else ["0" * 32] * len(rows)),
            "draw": pa.array([rank(seed, "draw", one) for one in contents], pa.float64()),
            "side": pa.array(_sides(rows)),
            "pictures": pa.ListArray.from_arrays(_offsets(images), pictures.indices.cast(pa.int32())),
        }
    )
    ranks = pa.array([rank(seed, "split", name) for name in names.to_pylist()], pa.float64())
    return marks.select(SCHEMA.names).cast(SCHEMA), pa.table([names, ranks], schema=PICTURES)


def content(rows: pa.Table) -> pa.Array:
    """What a row teaches: its pictures and its conversation. Bare input means nothing without its task."""
    images, turns = _list(rows["images"]), _list(rows["turns"])
    said = turns.flatten()
    spoken = pc.binary_join_element_wise(_framed(said.field("role")), _framed(said.field("text")), "")
    task = pc.binary_join_element_wise("4:task", _framed(_plain(rows["task"])), "")
    return pc.binary_join_element_wise(
        pc.if_else(_plain(rows["templated"]), task, ""),
        "6:images",
        pc.binary_join(pa.ListArray.from_arrays(_offsets(images), _framed(images.flatten())), ""),
        pc.binary_join(pa.ListArray.from_arrays(_offsets(turns), spoken), ""),
        "",
    )


def _framed(text: pa.Array) -> pa.Array:
    # Lengths between the parts, so that no two different rows run together into one text.
    return pc.binary_join_element_wise(pc.utf8_length(text).cast(pa.string()), text, ":")


def _spoken(rows: pa.Table) -> pa.Array:
    """The conversation as two that differ in case, punctuation, spaces or the place of a picture's mark have it alike."""
    turns = _list(rows["turns"])
    said = turns.flatten()
    plain = pl.Series(pc.replace_substring(said.field("text"), IMAGE, " "), dtype=pl.String).str.normalize("NFKC")
    words = plain.str.to_lowercase().str.extract_all(WORD).list.join(" ")
    spoken = pc.binary_join_element_wise(said.field("role"), words.to_arrow().cast(pa.string()), "\x1e")
    task = pc.if_else(_plain(rows["templated"]), _plain(rows["task"]), "")
    return pc.binary_join_element_wise(task, pc.binary_join(pa.ListArray.from_arrays(_offsets(turns), spoken), "\x1d"), "\x1d")


def _sides(rows: pa.Table) -> NDArray[np.int8]:
    """Of a judgement whether it is Yes; the contract has seen to it that its first answer begins with one of the two."""
    turns = _list(rows["turns"])
    said = turns.flatten()
    answers = np.flatnonzero(pc.equal(said.field("role"), "assistant").to_numpy(zero_copy_only=False))
    owner = pc.list_parent_indices(turns).to_numpy()[answers]
    answered, first = np.unique(owner, return_index=True)
    judged = pc.equal(_plain(rows["kind"]), "judgement").to_numpy(zero_copy_only=False)
    asked = judged[answered]
    texts = pl.Series(said.field("text").take(pa.array(answers[first[asked]])), dtype=pl.String)
    sides = np.full(len(rows), NO_SIDE, dtype=np.int8)
    sides[answered[asked]] = np.where(agrees(texts).to_numpy(), AGREES, DENIES)
    return sides


def _halves(name: str, digests: Sequence[str]) -> dict[str, pa.Array]:
    high = pa.array([int(digest[:16], 16) for digest in digests], pa.uint64())
    return {name: high, f"{name}_low": pa.array([int(digest[16:32], 16) for digest in digests], pa.uint64())}


def _plain(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _list(column: pa.ChunkedArray) -> pa.ListArray:
    return column.combine_chunks()


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Where each begins in `flatten`, and the end."""
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


@dataclass(frozen=True)
class Names:
    """A column of few values: `of[i]` is row i's place among `known`, which are sorted."""

    of: NDArray[np.int32]
    known: tuple[str, ...]

    def __getitem__(self, rows: Numbers) -> "Names":
        return Names(self.of[rows], self.known)


@dataclass(frozen=True)
class Marks:
    """Marks of all rows, in the order of the sources and of the rows in them; row i is the i-th in every column."""

    source: Names
    row: Numbers
    task: Names
    domain: Names
    kind: Names
    content: NDArray[np.uint64]
    """(rows, 2): equal if and only if two rows teach the same."""
    said: NDArray[np.uint64]
    """(rows, 2): equal if two conversations are alike but for case, punctuation and space."""
    draw: NDArray[np.float64]
    """The rank of its content in every draw."""
    side: NDArray[np.int8]
    starts: Numbers
    """(rows + 1,): row i's pictures are `pictures[starts[i] : starts[i + 1]]`."""
    pictures: Numbers
    """Places in `sha256`."""
    sha256: pa.Array
    """Every picture once, sorted."""
    split: NDArray[np.float64]
    """The rank of each picture in the split."""
    met: Numbers
    """(rows,): which row, in the order of the shards, each is."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def owner(self) -> Numbers:
        """(pictures shown,): the row that shows each of `pictures`."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def named(self, rows: Numbers) -> pa.Array:
        """`SOURCE:ROW` of each of `rows`."""
        sources = pa.array(self.source.known, pa.string()).take(pa.array(self.source.of[rows]))
        return pc.binary_join_element_wise(sources, pa.array(self.row[rows]).cast(pa.string()), ":")


def gathered(shards: Sequence[tuple[pa.Table, pa.Table]], order: Sequence[str]) -> Marks:
    """The marks of all shards together; sources stand in `order`, others behind them by name. Shards may cut rows anyhow."""
    rows = pa.concat_tables([marks.drop_columns("pictures") for marks, _ in shards] or [SCHEMA.empty_table()])
    source = _names(rows["source"])
    place = {name: number for number, name in enumerate(order)}
    places = np.array([place.get(name, len(place) + number) for number, name in enumerate(source.known)], dtype=np.int64)
    number = rows["row"].to_numpy()
    met = np.lexsort((number, places[source.of])) if len(rows) else np.zeros(0, dtype=np.int64)
    sha256, split, shown, counts = _pictures(shards)
    starts = np.concatenate([[0], np.cumsum(counts[met])])
    first = np.cumsum(counts) - counts
    at = np.repeat(first[met] - starts[:-1], counts[met]) + np.arange(starts[-1])

    def both(name: str) -> NDArray[np.uint64]:
        return np.stack([rows[half].to_numpy()[met] for half in (name, f"{name}_low")], axis=1)

    return Marks(
        source=source[met],
        row=number[met],
        task=_names(rows["task"])[met],
        domain=_names(rows["domain"])[met],
        kind=_names(rows["kind"])[met],
        content=both("content"),
        said=both("said"),
        draw=rows["draw"].to_numpy()[met],
        side=rows["side"].to_numpy()[met],
        starts=starts,
        pictures=shown[at],
        sha256=sha256,
        split=split,
        met=met,
    )


def _names(column: pa.ChunkedArray) -> Names:
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no chunk at all
        return Names(np.zeros(0, dtype=np.int32), ())
    known = encoded.dictionary.to_pylist()
    order = sorted(range(len(known)), key=known.__getitem__)
    place = np.empty(len(known), dtype=np.int32)
    place[order] = np.arange(len(known))
    return Names(place[encoded.indices.to_numpy()], tuple(known[number] for number in order))


def _pictures(shards: Sequence[tuple[pa.Table, pa.Table]]) -> tuple[pa.Array, NDArray[np.float64], Numbers, Numbers]:
    """Every picture once, its rank, the pictures shown by all rows one after the other, and how many each row shows."""
    met = pa.chunked_array([pictures["sha256"].combine_chunks() for _, pictures in shards], pa.string())
    ranks = np.concatenate([pictures["split"].to_numpy() for _, pictures in shards] or [np.zeros(0)])
    # One picture stands in several shards.
    once = pl.DataFrame({"sha256": pl.Series(met, dtype=pl.String), "split": ranks}).unique("sha256").sort("sha256")
    sha256 = once["sha256"].to_arrow().cast(pa.string())
    number = pc.index_in(met, sha256).to_numpy().astype(np.int64)
    shown, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    first = 0
    for marks, pictures in shards:
        lists = _list(marks["pictures"])
        shown.append(number[first + lists.flatten().to_numpy().astype(np.int64)])
        counts.append(pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64))
        first += len(pictures)
    return sha256, once["split"].to_numpy(), np.concatenate(shown), np.concatenate(counts)
