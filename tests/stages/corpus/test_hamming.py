import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus import hamming
from stages.corpus.hamming import pairs


def compared(left, right, distance):
    """Every pair within the distance, each of the left compared with each of the right."""
    bits = np.bitwise_count(left[:, None] ^ right[None, :])
    return [(int(i), int(j), int(bits[i, j])) for i, j in zip(*np.nonzero(bits <= distance), strict=True)]


def found(left, right, distance):
    return [tuple(map(int, pair)) for pair in zip(*pairs(left, right, distance), strict=True)]


@st.composite
def hashes(draw):
    """A few random hashes, and some of these with a few bits flipped, so that there are pairs at every distance."""
    seeds = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=12)
    several = draw(st.lists(st.tuples(st.sampled_from(seeds), flips), max_size=20))
    return np.array([seed ^ sum(1 << bit for bit in set(bits)) for seed, bits in several], dtype=np.uint64)


@given(hashes(), hashes(), st.integers(0, 64))
def test_the_pairs_are_those_of_comparing_each_with_each(left, right, distance):
    left = np.concatenate([left, right[:5] ^ np.uint64(5)])
    assert found(left, right, distance) == compared(left, right, distance)


@pytest.mark.parametrize("blocks", range(hamming.FEWEST_BLOCKS, hamming.MOST_BLOCKS + 1))
@pytest.mark.parametrize("distance", [0, 1, 2, 5, 8, 13])
def test_any_number_of_blocks_finds_the_same(monkeypatch, blocks, distance):
    generator = np.random.default_rng(17)
    left = generator.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in generator.choice(64, number, replace=False)) for number in range(15)]
    right = np.concatenate([left[:4, None] ^ np.array(flips, dtype=np.uint64)[None, :]]).ravel()
    monkeypatch.setattr(hamming, "FEWEST_BLOCKS", blocks)
    monkeypatch.setattr(hamming, "MOST_BLOCKS", blocks)
    monkeypatch.setattr(hamming, "BY_HAND", 1e30)
    if sum(block.ways for block in hamming._shares(blocks, distance)) < 20_000:
        assert found(left, right, distance) == compared(left, right, distance)


def test_equal_hashes_are_named_every_one_and_many_candidates_fit_into_few_at_once(monkeypatch):
    monkeypatch.setattr(hamming, "AT_ONCE", 7)
    monkeypatch.setattr(hamming, "BY_HAND", 1e30)
    left = np.array([0, 0, 0, 7, 2**63] * 3, dtype=np.uint64)
    right = np.array([1, 1, 0, 2**40, 2**64 - 1], dtype=np.uint64)
    for distance in (0, 1, 2, 3):
        assert found(left, right, distance) == compared(left, right, distance)


def test_nothing_is_near_nothing():
    none = np.zeros(0, dtype=np.uint64)
    assert found(none, none, 8) == found(none, none + np.uint64(1), 64) == []


def test_what_is_no_distance_or_no_hash_is_refused():
    one = np.zeros(1, dtype=np.uint64)
    with pytest.raises(ValueError, match="got distance=65"):
        pairs(one, one, 65)
    with pytest.raises(ValueError, match=r"one row of uint64, got int64 of shape \(1,\)"):
        pairs(one.astype(np.int64), one, 3)
