import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from stages.models.loading import load_model
from stages.models.plan import apply_plan, part_of
from stages.tuning.optimizer import Muon, RoundedAdamW, matrices, optimizer_of, rounded
from stages.tuning.params import Tuning
from stages.tuning.trainer import TreeTrainer, arguments


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


def rates_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


OWN = {"vision_tower": 0.0001, "connector": 0.003, "language_model": None}


def test_each_part_is_tuned_at_its_own_rate_and_without_one_at_the_stages(tiny_model, params):
    for parts in (["full"] * 3, ["lora", "full", "lora"], ["frozen", "lora", "full"]):
        plan = dict(zip(OWN, parts, strict=True))
        mine = Tuning.model_validate({**params.model_dump(), "optimizer": "adamw", "learning_rates": OWN, "parts": plan})
        model = planned(tiny_model, mine)
        optimizer = optimizer_of(model, mine)

        rates = rates_of(model, optimizer)

        assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(rate == (OWN[part_of(name)] or 0.001) for name, rate in rates.items())
        assert optimizer.param_groups[0]["lr"] == 0.001, "what the curve shows is learning_rate"


def test_muons_rate_in_a_part_is_scaled_as_adamws_is(tiny_model, params):
    mine = Tuning.model_validate({**params.model_dump(), "learning_rates": OWN})
    model = planned(tiny_model, mine)
    rates = rates_of(model, optimizer_of(model, mine))

    assert rates["model.vision_tower.encoder.layers.0.mlp.fc1.weight"] == pytest.approx(0.02 * 0.1)
    assert rates["model.multi_modal_projector.linear_1.weight"] == pytest.approx(0.02 * 3)
    assert rates["model.language_model.layers.0.mlp.up_proj.weight"] == 0.02
    assert rates["model.multi_modal_projector.linear_1.bias"] == 0.003


@pytest.mark.parametrize("how", ["full", "lora"])
def test_without_rates_of_parts_adamw_steps_to_the_bit_as_the_trainers_own(tiny_model, params, tmp_path, how):
    mine = with_parts(
        Tuning.model_validate({**params.model_dump(), "optimizer": "adamw", "weight_decay": 0.1}),
        vision_tower=how, connector="full", language_model=how,
    )  # fmt: skip
    given = arguments(mine, tmp_path, 8, 1, "cpu", True)
    models = [planned(tiny_model, mine) for _ in range(2)]
    for parameter, other in zip(*(model.parameters() for model in models), strict=True):
        other.data.copy_(parameter.data)  # LoRA's first weights are drawn
    ours = TreeTrainer("train", mine, [[[]]], model=models[0], args=given)
    theirs = Trainer(model=models[1], args=given)

    for _ in range(3):
        for trainer, model in zip((ours, theirs), models, strict=True):
            stepped_once(model, trainer.create_optimizer())

    for parameter, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(parameter, other)


def test_rounding_by_chance_gives_one_of_both_neighbours_and_is_right_in_the_mean():
    drawn = torch.Generator().manual_seed(3)
    for value in (1.001, -1.001, 3e-5, 0.0, -7.3e4):
        made = rounded(torch.full((40_000,), value), drawn).float()
        exact = torch.tensor(value).bfloat16().float()
        assert len(made.unique()) <= 2
        assert (made - value).abs().max() <= 2**-7 * abs(value)
        assert made.mean().item() == pytest.approx(value, rel=1e-4)
        if exact == value:
            assert torch.equal(made, torch.full_like(made, value))
    assert torch.equal(rounded(torch.tensor([torch.inf, -torch.inf]), drawn).float(), torch.tensor([torch.inf, -torch.inf]))


def test_small_steps_on_weights_in_bf16_count_in_the_mean_and_are_lost_without_chance():
    weights = [torch.nn.Parameter(torch.ones(4000, dtype=dtype)) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32)]
    given: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}
    optimizers = [
        RoundedAdamW([weights[0]], seed=3, **given),
        torch.optim.AdamW([weights[1]], **given),
        torch.optim.AdamW([weights[2]], **given),
    ]
    for step in range(40):
        torch.manual_seed(step)
        gradient = 1 + 0.1 * torch.randn(4000)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.to(weight.dtype)
            optimizer.step()

    by_chance, to_nearest, exact = (1 - weight.detach().double().mean().item() for weight in weights)

    assert to_nearest == 0
    assert by_chance == pytest.approx(exact, rel=0.1)
    assert {tensor.dtype for name, tensor in optimizers[0].state[weights[0]].items() if name != "step"} == {torch.bfloat16}


def test_weights_in_bf16_are_stepped_by_chance_and_loras_factors_as_ever(tiny_model, params):
    plan = with_parts(params, vision_tower="frozen", connector="full", language_model="lora")
    mine = Tuning.model_validate({**plan.model_dump(), "optimizer": "adamw", "precision": "pure_bf16"})
    model = apply_plan(load_model(tiny_model, torch.bfloat16), mine.parts, mine.lora)

    stock, by_chance = optimizer_of(model, mine).each

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [{names[id(one)] for group in optimizer.param_groups for one in group["params"]} for optimizer in (stock, by_chance)]
    assert isinstance(by_chance, RoundedAdamW)
    assert held[0]
    assert all("lora_" in name for name in held[0])
    assert all("multi_modal_projector" in name for name in held[1])
    assert {parameter.dtype for group in stock.param_groups for parameter in group["params"]} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_drawn_for_rounding_goes_on_where_a_saved_state_ends(tiny_model, params, optimizer):
    mine = Tuning.model_validate({**params.model_dump(), "precision": "pure_bf16", "optimizer": optimizer})
    one, other = (apply_plan(load_model(tiny_model, torch.bfloat16), mine.parts, mine.lora) for _ in range(2))
    first, second = optimizer_of(one, mine), optimizer_of(other, mine)
    stepped_once(one, first)
    torch.manual_seed(99)  # whatever else draws
    with torch.no_grad():
        for there, here in zip(other.parameters(), one.parameters(), strict=True):
            there.copy_(here)
    second.load_state_dict(copy.deepcopy(first.state_dict()))

    stepped_once(one, first)
    stepped_once(other, second)

    assert all(torch.equal(here, there) for here, there in zip(one.parameters(), other.parameters(), strict=True))
    first_weights = load_model(tiny_model, torch.bfloat16).state_dict()
    moved = [name for name, parameter in one.named_parameters() if not torch.equal(parameter, first_weights[name])]
    assert any("q_proj.weight" in name for name in moved)
