from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stages.trees.tree import Branch, Tree
from stages.tuning.data import order


def sized(tokens: int) -> Tree:
    return Tree((), tuple(range(tokens - 2)), (Branch("s", 0, "t", "short", (1, 2), (False, True)),))


@given(
    sizes=st.lists(st.integers(3, 60), min_size=1, max_size=80),
    epochs=st.integers(1, 4),
    per_batch=st.integers(1, 8),
    accumulation=st.integers(1, 3),
)
def test_every_epoch_shows_every_tree_and_every_step_is_full(sizes, epochs, per_batch, accumulation):
    per_step = per_batch * accumulation

    laid = order([sized(tokens) for tokens in sizes], epochs, per_batch, per_step, seed=5)

    assert len(laid) % per_step == 0
    assert len(laid) < len(sizes) * epochs + 2 * per_step
    shown = Counter(laid)
    assert all(shown[index] >= epochs for index in range(len(sizes)))


def test_trees_of_like_length_share_a_batch():
    trees = [sized(3 + number) for number in range(64)]
    laid = order(trees, 1.0, 8, 8, seed=5)
    spread = [max(batch) - min(batch) for batch in (laid[first : first + 8] for first in range(0, 64, 8))]
    assert max(spread) == 7


def test_the_order_hangs_on_the_seed_alone():
    trees = [sized(3 + number % 7) for number in range(40)]
    assert order(trees, 2.0, 4, 8, seed=5) == order(trees, 2.0, 4, 8, seed=5) != order(trees, 2.0, 4, 8, seed=6)
