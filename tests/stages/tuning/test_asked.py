import pytest
import torch

from stages.models.loading import load_model
from stages.trees import attention
from stages.trees.batch import batch_trees
from stages.trees.tree import Branch, Tree
from stages.tuning.asked import compute_only_asked

FOREST = [
    Tree((), (3, 4, 5), tuple(Branch("s", 0, "t", "short", (9, 10, 11 + n, 12), (False, False, True, True)) for n in range(2))),
    Tree((), (), (Branch("s", 1, "t", "short", (20, 21, 22), (False, True, False)),)),
]


def learnt(folder, narrowed):
    """The logits of a pass over `FOREST`, and its gradient by parameter; and the model."""
    model = load_model(folder, attention={"text_config": attention.NAME, "vision_config": "eager"}).train()
    if narrowed:
        compute_only_asked(model)
    batch = batch_trees(FOREST)
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        tree=attention.layout(batch),
        logits_to_keep=batch.asked,
        use_cache=False,
    ).logits
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    return logits, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}, model


def test_what_is_asked_and_its_gradient_stay_the_same(tiny_model):
    (whole, by_whole, _), (logits, gradients, _) = learnt(tiny_model, narrowed=False), learnt(tiny_model, narrowed=True)

    assert torch.allclose(logits, whole, atol=1e-5)
    assert gradients.keys() == by_whole.keys()
    for name, one in by_whole.items():
        assert torch.allclose(gradients[name], one, rtol=1e-4, atol=1e-6), name


def test_the_last_layer_computes_the_asked_tokens_and_no_others(tiny_model):
    _, _, model = learnt(tiny_model, narrowed=True)
    seen: list[tuple[int, ...]] = []
    layers = model.get_decoder().layers
    for layer in layers:
        layer.mlp.down_proj.register_forward_hook(lambda part, given, made: seen.append(tuple(given[0].shape[:-1])))
    batch = batch_trees(FOREST)
    model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        tree=attention.layout(batch),
        logits_to_keep=batch.asked,
        use_cache=False,
    )

    assert seen == [(1, 14)] * (len(layers) - 1) + [(5,)]


@pytest.mark.parametrize("asked", [{}, {"logits_to_keep": 2}])
def test_a_pass_that_asks_for_no_certain_tokens_computes_all(tiny_model, asked):
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    plain, narrowed = (load_model(tiny_model, attention="eager").eval() for _ in range(2))
    compute_only_asked(narrowed)

    assert torch.equal(narrowed(input_ids=ids, **asked).logits, plain(input_ids=ids, **asked).logits)
