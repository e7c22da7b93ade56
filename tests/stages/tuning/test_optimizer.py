import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.models.loading import load_model
from stages.models.plan import apply_plan
from stages.tuning.optimizer import Muon, matrices, optimizer_of
from stages.tuning.params import Tuning


@pytest.fixture
def params(tuning: dict[str, Any]) -> Tuning:
    return Tuning.model_validate({**tuning, "optimizer": "muon", "learning_rate": 0.001, "muon_learning_rate": 0.02})


def with_parts(params: Tuning, **parts: str) -> Tuning:
    return Tuning.model_validate({**params.model_dump(), "parts": parts})


def planned(folder: Path, params: Tuning) -> torch.nn.Module:
    return apply_plan(load_model(folder), params.parts, params.lora)


def stepped_once(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            torch.manual_seed(number)
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def test_every_tuned_parameter_is_stepped_by_exactly_one_of_the_two(tiny_model, params):
    model = planned(tiny_model, params)
    optimizer = optimizer_of(model, params)

    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]

    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_muon_steps_matrices_of_layers_and_no_embedding_head_norm_or_lora_factor(tiny_model, params):
    model = planned(tiny_model, with_parts(params, vision_tower="full", connector="full", language_model="lora"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    stepped = [names[id(parameter)] for parameter in matrices(model)]

    assert any("vision_tower" in name and "q_proj" in name for name in stepped)
    assert any("multi_modal_projector" in name for name in stepped)
    assert not any(word in name for name in stepped for word in ("embed", "norm", "lm_head", "lora_", "language_model"))


def test_a_muon_step_moves_every_direction_of_a_matrix_alike(tiny_model, params):
    # What makes it Muon: the update's singular values are all near one another, whatever the gradient's were.
    model = planned(tiny_model, params)
    weight = matrices(model)[0]
    before = weight.detach().clone()

    stepped_once(model, optimizer_of(model, params))

    moved = torch.linalg.svdvals(weight.detach() - before)
    scale = 0.2 * params.muon_learning_rate * max(weight.shape) ** 0.5
    assert 0.5 * scale < moved.min() < moved.max() < 1.5 * scale


def test_muon_steps_wide_square_and_tall_matrices_as_torchs_own_does():
    shapes = [(8, 8), (8, 20), (20, 8), (8, 8), (6, 8)]
    mine, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    rates = {"lr": 0.02, "weight_decay": 0.1}
    ours, torchs = Muon(mine, **rates), torch.optim.Muon(theirs, **rates, adjust_lr_fn="match_rms_adamw")

    for step in range(3):
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            torch.manual_seed(10 * step + number)
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        torchs.step()

    for one, other in zip(mine, theirs, strict=True):
        moved = (other - 1).abs().mean()
        assert (one - other).abs().max() < 0.05 * moved  # both iterate in bfloat16, in another order


def test_muon_leaves_alone_what_has_no_gradient():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    Muon([parameter], lr=0.02, weight_decay=0.1).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def test_norms_and_biases_do_not_decay(tiny_model, params):
    model = planned(tiny_model, params)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    groups = optimizer_of(model, Tuning.model_validate({**params.model_dump(), "weight_decay": 0.1})).param_groups

    spared = {names[id(parameter)] for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert any("norm" in name for name in spared)
    assert any("bias" in name for name in spared)
    assert not any("embed_tokens" in name or "q_proj.weight" in name for name in spared)


def test_a_schedule_reaches_the_rates_of_both(tiny_model, params):
    model = planned(tiny_model, params)
    optimizer = optimizer_of(model, params)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    stepped_once(model, optimizer)
    schedule.step()

    assert [group["lr"] for group in optimizer.param_groups] == [0.0005, 0.0005, 0.01]


def test_a_state_that_is_saved_and_loaded_goes_on_as_if_never_saved(tiny_model, params):
    one, other = planned(tiny_model, params), planned(tiny_model, params)
    first = optimizer_of(one, params)
    stepped_once(one, first)
    second = optimizer_of(other, params)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), one.parameters(), strict=True):
            mine.copy_(theirs)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as through a file

    stepped_once(one, first)
    stepped_once(other, second)

    assert all(torch.equal(mine, theirs) for mine, theirs in zip(other.parameters(), one.parameters(), strict=True))


def test_muon_without_a_matrix_to_step_is_refused_with_the_way_out(tiny_model, params):
    only_lora = with_parts(params, vision_tower="frozen", connector="frozen", language_model="lora")
    with pytest.raises(ValueError, match=r"parts\.\* leaves none; set optimizer: adamw"):
        optimizer_of(planned(tiny_model, only_lora), only_lora)
