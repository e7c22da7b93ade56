"""Rows that say what another row says: the same in every byte (exact), or to anyone who looks and reads (near)."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.corpus.marks import Marks, Numbers


@dataclass(frozen=True)
class Copies:
    """`rows` are said before by `first`, an earlier row each; `bits` of their pictures' hashes differ, at most."""

    rows: Numbers
    first: Numbers
    bits: NDArray[np.uint8]


def exact(marks: Marks, rows: Numbers) -> Copies:
    """Those of `rows` (ascending) whose pictures and conversation an earlier one has."""
    first = _first_alike({"high": marks.content[rows, 0], "low": marks.content[rows, 1]})
    again = first < np.arange(len(rows))
    return Copies(rows[again], rows[first[again]], np.zeros(int(again.sum()), dtype=np.uint8))


def near(marks: Marks, rows: Numbers, alike: Numbers, phash: NDArray[np.uint64]) -> Copies:
    """Those of `rows` (ascending) whose pictures look, in their order, like an earlier one's, and whose conversation reads so.

    `alike`: a number for each picture, the same for all that show the same; `phash`: its hash.
    """
    starts, counts = marks.starts[:-1][rows], np.diff(marks.starts)[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(starts, counts) + place
    shown = np.bitwise_xor(_mixed(alike[marks.pictures[at]].astype(np.uint64)), _mixed(~place.astype(np.uint64)))
    together = counts.astype(np.uint64)
    np.add.at(together, owner, _mixed(shown))
    first = _first_alike({"high": marks.said[rows, 0], "low": marks.said[rows, 1], "shown": together})
    again = np.flatnonzero(first < np.arange(len(rows)))
    # Of the rows that are said before, each picture against the one in the same place of the row that is kept.
    counts = counts[again]
    of = np.repeat(np.arange(len(again)), counts)
    place = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    mine, theirs = (phash[marks.pictures[marks.starts[rows[which]][of] + place]] for which in (again, first[again]))
    bits = np.zeros(len(again), dtype=np.uint8)
    np.maximum.at(bits, of, np.bitwise_count(mine ^ theirs))
    return Copies(rows[again], rows[first[again]], bits)


def reasons(marks: Marks, copies: Copies, loosely: bool) -> pa.Array:
    """What the ledger says of each copy."""
    kept = marks.named(copies.first)
    if not loosely:
        return pc.binary_join_element_wise("exact: ", kept, "")
    bits = pa.array(copies.bits).cast(pa.string())
    return pc.binary_join_element_wise("near: ", kept, " (distance ", bits, ")", "")


def _first_alike(columns: dict[str, NDArray[np.uint64]]) -> Numbers:
    """For each line, the first one that is equal to it in all columns."""
    lines = pl.DataFrame(columns).with_row_index("line")
    return lines.select(pl.col("line").min().over(list(columns)).cast(pl.Int64)).to_series().to_numpy()


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number well spread over 64 bits (the finalizer of SplitMix64: Steele, Lea, Flood, 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
