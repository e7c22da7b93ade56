import json

import pytest
import torch

from bench import trees as bench
from bench.trees import compare, generated, one_pass, sides_of, spread
from stages.models.sections import Tiny

SMALL = Tiny(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, text_width=32, text_layers=2, heads=2, vocabulary=320
)


@pytest.fixture(scope="module")
def material():
    return generated(6, SMALL)


def test_both_sides_learn_the_same_from_the_same_examples(material):
    gradients, losses = {}, {}
    for name, side in sides_of(material).items():
        losses[name] = one_pass(material.model, side)
        gradients[name] = torch.cat([one.grad.flatten() for one in material.model.parameters() if one.grad is not None])

    assert losses["trees"] == pytest.approx(losses["rows"], rel=bench.TOLERANCE)
    assert (gradients["trees"] - gradients["rows"]).norm() < 0.05 * gradients["rows"].norm()


def test_rows_read_each_picture_as_often_as_it_is_asked_about(material):
    sizes = {name: side.sizes() for name, side in sides_of(material).items()}
    examples = sum(len(one.branches) for one in material.trees)

    assert sizes["trees"]["pictures"] == 6
    assert sizes["rows"]["pictures"] == examples
    assert sizes["rows"]["tokens"] - sizes["trees"]["tokens"] == (examples - 6) * len(material.trees[0].prefix)


def test_a_comparison_says_how_much_faster_and_how_sure(material):
    figures = compare(material, pairs=2)

    assert figures["trees_times_as_fast"]["least"] <= figures["trees_times_as_fast"]["most"]
    assert figures["trees"]["examples_per_second"] > 0
    assert json.loads(json.dumps(figures)) == figures


def test_sides_that_learn_different_things_are_not_compared(material, monkeypatch):
    monkeypatch.setattr(bench, "one_pass", lambda model, side: float(len(side.batches[0])))

    with pytest.raises(ValueError, match="different things"):
        compare(material, pairs=1)


def test_the_spread_of_ratios():
    assert spread([1.0, 2.0, 3.0, 4.0, 10.0]) == {
        "median": 3.0, "quartile_low": 2.0, "quartile_high": 4.0, "least": 1.0, "most": 10.0,
    }  # fmt: skip
