from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stages.corpus.example import Turn
from stages.models.loading import load_model, load_processor
from stages.trees import attention
from stages.trees.batch import batch_trees, separate_rows
from stages.trees.certificate import prove
from stages.trees.chat import Chat
from stages.trees.tree import Branch, Tree

IMAGE_TOKENS = 4


def branch(*ids: int, answer: int) -> Branch:
    """A branch whose last `answer` tokens are supervised."""
    return Branch("s", 0, "t", "short", ids, (False,) * (len(ids) - answer) + (True,) * answer)


def trees(image_id: int) -> list[Tree]:
    prefix = (3, *[image_id] * IMAGE_TOKENS)
    several_turns = Branch(
        "s",
        1,
        "t",
        "conversation",
        (20, 4, 21, 1, 3, 22, 4, 23, 24, 1),
        (False, False, True, True) + (False,) * 3 + (True,) * 3,
    )
    return [
        Tree(("a",), prefix, (branch(10, 11, 4, 12, 1, answer=2), branch(13, 4, 14, 15, 16, 1, answer=4), several_turns)),
        Tree(("b",), prefix, (branch(30, 4, 31, 1, answer=2),)),
        Tree((), (), (branch(3, 40, 41, 4, 42, 1, answer=2),)),
    ]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> torch.nn.Module:
    return load_model(tiny_model, attention={"text_config": attention.NAME, "vision_config": "eager"}).eval()


@pytest.fixture(scope="module")
def stock(tiny_model: Path) -> torch.nn.Module:
    """The same model, with the attention it came with."""
    return load_model(tiny_model, attention="eager").eval()


@pytest.fixture(params=["dense", "split"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


def pixels(tree: Tree) -> torch.Tensor:
    return torch.cat([torch.empty(0, 3, 16, 16)] + [torch.full((1, 3, 16, 16), 0.1 + ord(name) / 100) for name in tree.images])


def forward(model: Any, given: list[Tree], scale: int, way: str) -> torch.Tensor:
    batch = batch_trees(given)
    shown = torch.cat([pixels(tree) for tree in given])
    return model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        tree=attention.layout(batch, way),
        pixel_values=shown if len(shown) else None,
        logits_to_keep=batch.asked,
        labels=batch.labels,
        shift_labels=batch.labels,
        num_items_in_batch=torch.tensor(scale),
    )


def gradient(model: torch.nn.Module) -> torch.Tensor:
    parts = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def test_a_batch_of_trees_has_the_loss_and_the_gradient_of_separate_unpadded_rows(model, tiny_model, way):
    given = trees(load_processor(tiny_model).image_token_id)
    supervised = sum(sum(one.supervised) for tree in given for one in tree.branches)

    together = forward(model, given, supervised, way).loss
    together.backward()
    tree_gradient = gradient(model)
    apart = sum(forward(model, [row], supervised, way).loss for tree in given for row in separate_rows(tree))
    apart.backward()
    row_gradient = gradient(model)

    assert together.item() == pytest.approx(apart.item(), rel=1e-6)
    assert (tree_gradient - row_gradient).norm() <= 1e-6 * row_gradient.norm()


def test_a_row_of_a_tree_is_what_the_model_sees_without_any_tree(model, stock, tiny_model, way):
    row = separate_rows(trees(load_processor(tiny_model).image_token_id)[0])[1]
    ids = torch.tensor([row.prefix + row.branches[0].ids])

    plain = stock(input_ids=ids, pixel_values=pixels(row), attention_mask=torch.ones_like(ids)).logits[0]
    asked = batch_trees([row]).asked[0]

    torch.testing.assert_close(forward(model, [row], 1, way).logits, plain[asked], rtol=0, atol=1e-5)


def test_the_loss_is_the_one_transformers_computes_itself_from_whole_rows_with_labels(model, stock, tiny_model, way):
    # Their shift, not ours: labels here lie on the very tokens that are to be said.
    given = trees(load_processor(tiny_model).image_token_id)
    summed, supervised = 0.0, 0
    for row in (row for tree in given for row in separate_rows(tree)):
        ids = torch.tensor([row.prefix + row.branches[0].ids])
        said = torch.tensor([(False,) * len(row.prefix) + row.branches[0].supervised])
        shown = pixels(row)
        whole = stock(input_ids=ids, labels=ids.masked_fill(~said, -100), pixel_values=shown if len(shown) else None)
        summed += whole.loss.item() * int(said.sum())
        supervised += int(said.sum())

    assert forward(model, given, supervised, way).loss.item() == pytest.approx(summed / supervised, rel=1e-5)


def test_the_loss_of_a_proved_conversation_is_minus_the_log_probability_of_its_answer(model, stock, tiny_model, way):
    processor, picture = load_processor(tiny_model), Image.new("RGB", (32, 32), "teal")
    turns = (Turn("user", "<image>Which colour is it?"), Turn("assistant", "green"))
    proved = prove(Chat(processor, {processor.tokenizer.eos_token_id}), turns, [picture.size])
    cut = proved.image_end
    branch = Branch("s", 0, "t", "short", proved.ids[cut:], proved.supervised[cut:])
    batch = batch_trees([Tree(("p",), proved.ids[:cut], (branch,))])

    # By another road: the processor's own prompt, and after it the answer as the tokenizer writes it.
    asked = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour is it?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"return_tensors": "pt"},
    )
    answer = processor.tokenizer("green</s>")["input_ids"]
    shown = asked["pixel_values"]
    scores = stock(input_ids=torch.cat([asked["input_ids"], torch.tensor([answer])], 1), pixel_values=shown).logits[0]
    expected = -scores[-len(answer) - 1 : -1].log_softmax(-1)[range(len(answer)), answer].sum().item()

    loss = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        tree=attention.layout(batch, way),
        pixel_values=shown,
        logits_to_keep=batch.asked,
        labels=batch.labels,
        shift_labels=batch.labels,
        num_items_in_batch=torch.tensor(1),
    ).loss
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_changing_one_branch_leaves_the_logits_of_its_siblings_unchanged(model, tiny_model, way):
    first = trees(load_processor(tiny_model).image_token_id)[0]
    changed = Tree(first.images, first.prefix, (branch(50, 51, 4, 52, 1, answer=2), *first.branches[1:]))
    own = sum(first.branches[0].supervised)

    before, after = forward(model, [first], 1, way).logits, forward(model, [changed], 1, way).logits

    assert torch.equal(before[own:], after[own:])
    assert not torch.equal(before[:own], after[:own])


def test_the_worked_example_of_the_module():
    tree = Tree((), (1, 2), (branch(3, 4, answer=1), branch(5, 6, 7, answer=2)))

    batch = batch_trees([tree, tree])

    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7] * 2]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4] * 2]
    assert batch.tree.tolist() == [0] * 7 + [1] * 7
    assert batch.node.tolist() == [0, 0, 1, 1, 2, 2, 2] * 2
    assert batch.labels.tolist() == [4, 6, 7] * 2
    assert batch.asked[0].nonzero().flatten().tolist() == [2, 4, 5, 9, 11, 12]
