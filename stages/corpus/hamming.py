"""Which 64-bit hashes of two collections differ in few bits, without comparing each of one with each of the other.

Pigeonholes: cut the 64 bits into m blocks and give each a number of bits, t₁ + … + tₘ = distance - m + 1. Were every block
of two hashes over its number, they would differ in at least (t₁ + 1) + … + (tₘ + 1) = distance + 1 bits. So two hashes within
`distance` have a block within its number, and are found by looking up that block's every variation in a table of the blocks of
the larger collection (Norouzi, Punjani, Fleet: Fast Search in Hamming Space with Multi-Index Hashing, 2012).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

BITS = 64
MOST_BLOCKS, FEWEST_BLOCKS = 8, 3
"""Fewer blocks would want a table of 2³² entries."""
AT_ONCE = 1 << 21
"""Candidates compared at once: bounds the memory, some 100 MiB, whatever the hashes."""
LOOK_UP, COMPARE, BY_HAND = 6.0, 25.0, 2.0
"""Nanoseconds, roughly: of one variation looked up, of one candidate compared, of two hashes compared without a table."""


def pairs(left: Hashes, right: Hashes, distance: int) -> tuple[Indices, Indices, NDArray[np.uint8]]:
    """All pairs whose hashes differ in at most `distance` bits: (index in left, index in right, bits), by left, then right.

    Equal hashes are compared once, but every pair of them is named: a caller whose collection holds thousands of equal ones
    (blank pictures) and wants no thousands times thousands of pairs gives each hash once (`np.unique`).

    Raises:
        ValueError: `distance` is not in 0 … 64, or hashes are no row of uint64.
    """
    if not 0 <= distance <= BITS:
        raise ValueError(f"two hashes of {BITS} bits differ in 0 to {BITS} of them; got distance={distance}")
    for hashes in (left, right):
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError(f"hashes must be one row of uint64, got {hashes.dtype} of shape {hashes.shape}")
    left_once, left_of = np.unique(left, return_inverse=True)
    right_once, right_of = np.unique(right, return_inverse=True)
    turned = len(left_once) < len(right_once)
    large, small = (right_once, left_once) if turned else (left_once, right_once)
    in_large, in_small, bits = _joined(list(_near(large, small, distance)))
    in_left, in_right = (in_small, in_large) if turned else (in_large, in_small)
    places_left, places_right = _Groups.of(left_of, len(left_once)), _Groups.of(right_of, len(right_once))
    lefts, rights, of = _of_equals(in_left, places_left, in_right, places_right)
    order = np.lexsort((rights, lefts))
    return lefts[order], rights[order], bits[of][order]


Found = tuple[Indices, Indices, NDArray[np.uint8]]


def _near(large: Hashes, small: Hashes, distance: int) -> Iterator[Found]:
    """(index in large, index in small, bits) of every pair within `distance`, each once."""
    if not len(small):
        return
    cuts = [_shares(blocks, distance) for blocks in range(FEWEST_BLOCKS, MOST_BLOCKS + 1)]
    costs = [_cost(shares, len(large), len(small)) for shares in cuts]
    if min(costs) > BY_HAND * len(large) * len(small):
        yield from _by_hand(large, small, distance)
        return
    shares = cuts[costs.index(min(costs))]
    for number, block in enumerate(shares):
        if block.most < 0:
            continue
        keys = block.of(large)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << block.width) + 1))
        wanted = block.of(small)
        for flipped in block.variations():
            key = wanted ^ flipped
            first, behind = starts[key], starts[key + 1]
            some = np.flatnonzero(behind > first)
            for chunk in _chunks(behind[some] - first[some]):
                at = some[chunk]
                which, within = _spread(behind[at] - first[at])
                in_small = at[which]
                in_large = order[first[in_small] + within]
                differing = large[in_large] ^ small[in_small]
                bits = np.bitwise_count(differing)
                near = bits <= distance
                in_large, in_small, differing, bits = in_large[near], in_small[near], differing[near], bits[near]
                # A pair within several blocks' numbers is of the first of these.
                new = np.ones(len(bits), dtype=bool)
                for before in shares[:number]:
                    new &= np.bitwise_count(before.of(differing)).astype(np.int64) > before.most
                yield in_large[new], in_small[new], bits[new]


@dataclass(frozen=True)
class _Block:
    """Some bits of a hash: `width` of them above the lowest `shift`; at most `most` of them may differ, -1: never looked at."""

    shift: int
    width: int
    most: int

    def of(self, hashes: Hashes) -> Indices:
        mask = np.uint64((1 << self.width) - 1)
        return ((hashes >> np.uint64(self.shift)) & mask).astype(np.int64)

    def variations(self) -> Iterator[int]:
        """What to flip of the block, for each way to flip at most `most` of its bits."""
        for count in range(min(self.most, self.width) + 1):
            for bits in combinations(range(self.width), count):
                yield sum(1 << bit for bit in bits)

    @property
    def ways(self) -> int:
        return sum(comb(self.width, count) for count in range(min(self.most, self.width) + 1))


def _shares(blocks: int, distance: int) -> list[_Block]:
    shares = []
    shift = 0
    for number in range(blocks):
        # The first ones get what does not divide evenly: of the bits, and of what may differ.
        width = BITS // blocks + (number < BITS % blocks)
        total = distance - blocks + 1
        most = max(total // blocks + (number < total % blocks), -1)
        shares.append(_Block(shift, width, most))
        shift += width
    return shares


def _cost(shares: list[_Block], large: int, small: int) -> float:
    """Nanoseconds to expect of hashes whose blocks are evenly spread."""
    looked_up = sum(block.ways for block in shares) * small
    compared = sum(block.ways * small * large / (1 << block.width) for block in shares)
    tables = sum(1 << block.width for block in shares)
    return LOOK_UP * (looked_up + tables) + COMPARE * compared


def _by_hand(large: Hashes, small: Hashes, distance: int) -> Iterator[Found]:
    step = max(AT_ONCE // len(small), 1)
    for first in range(0, len(large), step):
        bits = np.bitwise_count(large[first : first + step, None] ^ small[None, :])
        in_large, in_small = np.nonzero(bits <= distance)
        yield in_large + first, in_small, bits[in_large, in_small]


def _chunks(counts: Indices) -> Iterator[slice]:
    """Slices of `counts` whose sums are about `AT_ONCE`; a single count may be larger."""
    if not len(counts):
        return
    ends = np.cumsum(counts)
    edges = np.searchsorted(ends, np.arange(AT_ONCE, int(ends[-1]) + AT_ONCE, AT_ONCE), side="right")
    first = 0
    for edge in np.unique(np.minimum(np.maximum(edges, 1), len(counts))).tolist():
        if edge > first:
            yield slice(first, edge)
            first = edge
    if first < len(counts):
        yield slice(first, len(counts))


def _spread(counts: Indices) -> tuple[Indices, Indices]:
    """Of 2, 3: (0, 0, 1, 1, 1) and (0, 1, 0, 1, 2)."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class _Groups:
    """The places at which each of several values stands."""

    places: Indices
    starts: Indices
    counts: Indices

    @classmethod
    def of(cls, value_of: Indices, values: int) -> "_Groups":
        counts = np.bincount(value_of, minlength=values)
        return cls(np.argsort(value_of, kind="stable"), np.cumsum(counts) - counts, counts)


def _of_equals(lefts: Indices, left: _Groups, rights: Indices, right: _Groups) -> tuple[Indices, Indices, Indices]:
    """Each pair of values as all pairs of places where these stand, and which pair of values it comes from."""
    of, within = _spread(left.counts[lefts] * right.counts[rights])
    across = right.counts[rights[of]]
    in_left = left.places[left.starts[lefts[of]] + within // np.maximum(across, 1)]
    in_right = right.places[right.starts[rights[of]] + within % np.maximum(across, 1)]
    return in_left, in_right, of


def _joined(parts: list[Found]) -> Found:
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )
