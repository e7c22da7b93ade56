import pytest
import torch

from bench import tuning_gpu as bench
from bench.tuning_gpu import Asked, measured, operations, seen_pairs
from stages.models.loading import load_model
from stages.trees.tree import Branch, Tree

TINY = Asked(steps=1, size="tiny", device="cpu", tokens=4096, optimizer="adamw", checkpoint=False)


def branch(ids, answer):
    return Branch("s", 0, "t", "short", ids, (False,) * (len(ids) - answer) + (True,) * answer)


def test_pairs_that_see_each_other_are_counted_one_by_one():
    tree = Tree(("a",), (1, 2, 3), (branch((4, 5), 1), branch((6,), 0)))

    assert seen_pairs(tree) == (1 + 2 + 3) + (4 + 5) + 4


def test_frozen_weights_need_a_third_less_and_unasked_tokens_no_last_layer(tiny_model):
    model = load_model(tiny_model)
    tree = Tree(("a",), (1, 2, 3, 4), (branch((5, 6, 7, 8), 2),))
    tuned = operations(model, [tree], narrowed=False)
    assert operations(model, [tree], narrowed=True) < tuned
    for parameter in model.get_decoder().layers.parameters():
        parameter.requires_grad_(False)
    layers = sum(one.numel() for one in model.get_decoder().layers.parameters() if one.ndim == 2)

    assert tuned - operations(model, [tree], narrowed=False) == 2 * layers * tree.tokens
    assert operations(model, [tree], narrowed=False, all_tuned=True) == tuned


@pytest.mark.slow
@pytest.mark.parametrize("tuned", ["full", "lora"])
@pytest.mark.parametrize("way", ["ours", "plain", "trl"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_way_says_how_fast_it_is_and_where_its_time_goes(tuned, way, monkeypatch):
    monkeypatch.setattr(bench, "WARM", 1)
    torch.set_num_threads(1)
    figures = measured(TINY, tuned, 8, way, 1e12)

    assert set(figures["seconds_by_part"]) == {
        "vision tower", "language model", "backward", "optimizer", "waiting and other", "of that decoding and collating",
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in figures["seconds_by_part"].values())
    assert figures["seconds_by_part"]["of that decoding and collating"] > 0
    assert 0 < figures["utilisation"] <= figures["utilisation_as_if_full"]
