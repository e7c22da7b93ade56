from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.trees.tree import Branch, Tree
from stages.tuning.data import order, weights


def sized(tokens: int) -> Tree:
    return Tree((), tuple(range(tokens - 2)), (Branch("s", 0, "t", "short", (1, 2), (False, True)),))


@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=80), epochs=st.integers(1, 4), per_step=st.integers(1, 24))
def test_every_epoch_shows_every_tree_and_every_step_is_full(sizes, epochs, per_step):
    laid = order([sized(tokens) for tokens in sizes], epochs, per_step, seed=5)

    assert len(laid) % per_step == 0
    assert len(laid) < len(sizes) * epochs + 2 * per_step
    shown = Counter(laid)
    assert all(shown[index] >= epochs for index in range(len(sizes)))


def test_trees_are_sorted_by_length_within_a_step_but_steps_stay_mixed():
    trees = [sized(3 + number) for number in range(64)]
    laid = order(trees, 1.0, 16, seed=5)
    steps = [laid[first : first + 16] for first in range(0, 64, 16)]
    assert all(step == sorted(step) for step in steps)
    assert all(max(step) - min(step) > 32 for step in steps)


def test_processes_that_take_batches_in_turn_get_the_same_steps_and_equally_long_trees():
    trees = [sized(3 + number) for number in range(64)]
    alone = order(trees, 1.0, 16, seed=5)

    laid = order(trees, 1.0, 16, seed=5, per_batch=4, processes=2)

    for first in range(0, 64, 16):
        step = laid[first : first + 16]
        assert sorted(step) == alone[first : first + 16]
        batches = [step[at : at + 4] for at in range(0, 16, 4)]
        one, other = batches[0::2], batches[1::2]
        assert all(max(short) < min(long) for short, long in (one, other)), "the batches pad little"
        longest = [[max(batch) for batch in mine] for mine in (one, other)]
        ranks = [[alone[first : first + 16].index(index) for index in mine] for mine in longest]
        assert ranks == [[6, 14], [7, 15]], "neither waits for the other"


def test_the_order_hangs_on_the_seed_alone():
    trees = [sized(3 + number % 7) for number in range(40)]
    assert order(trees, 2.0, 8, seed=5) == order(trees, 2.0, 8, seed=5) != order(trees, 2.0, 8, seed=6)


def test_weighted_by_example_every_answer_counts_one_whatever_its_length():
    short, long = (Tree((), (1,), (Branch("s", 0, "t", "short", (1,) * n, (False,) + (True,) * (n - 1)),)) for n in (3, 9))
    assert weights([short, long], "token").tolist() == [1.0] * 10
    assert weights([short, long], "example").tolist() == pytest.approx([0.5] * 2 + [0.125] * 8)
