import io
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from stages.corpus.images import ImageWriter
from stages.models.loading import load_processor
from stages.trees.tree import Branch, Tree
from stages.tuning.data import Pixels, order, weights


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


def stored(folder, *pictures: bytes) -> list[Tree]:
    """One tree for each of the pictures, which lie in a store below the folder."""
    with ImageWriter(folder / "s", shard_mib=1) as writer:
        return [Tree((writer.add(content),), (1,), ()) for content in pictures]


class Positions:
    """A processor that says where the columns of a picture lie, which nobody told us how to pad."""

    image_token = "<image>"

    def __call__(self, text, images, return_tensors):
        ((picture,),) = images
        return {"input_ids": torch.ones(1, 1), "positions": torch.arange(picture.width)[None]}


def test_a_processor_whose_outputs_cannot_lie_side_by_side_is_refused_before_anything_is_learnt(tmp_path, png):
    trees = stored(tmp_path, *(png("red", (24, side)) for side in (20, 24, 30)), png("red", (60, 24)))
    assert Pixels(tmp_path, trees[:3], Positions())(trees[0].images).keys() == {"positions"}
    with pytest.raises(
        ValueError, match=r"makes positions of shapes \[\(24,\), \(60,\)\] .*another base\.model in params\.yaml"
    ):
        Pixels(tmp_path, trees, Positions())


def test_a_picture_is_what_the_image_processor_makes_of_it_where_the_processor_tells_it_nothing(tmp_path, png, tiny_model):
    processor = load_processor(tiny_model)
    content = png("teal", (40, 23))
    (tree,) = stored(tmp_path, content)

    made = Pixels(tmp_path, [tree], processor)(tree.images)

    alone = processor.image_processor(images=[Image.open(io.BytesIO(content))], return_tensors="pt")
    assert made.keys() == {"pixel_values"}
    assert torch.equal(made["pixel_values"], alone["pixel_values"])


def test_a_picture_of_a_format_that_the_corpus_refuses_is_not_opened(tmp_path, tiny_model):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PCX")
    with pytest.raises(UnidentifiedImageError):
        Pixels(tmp_path, stored(tmp_path, buffer.getvalue()), load_processor(tiny_model))
