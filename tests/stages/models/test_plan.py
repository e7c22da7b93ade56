import itertools
import re

import pytest
import torch
from transformers import AutoConfig, LlavaForConditionalGeneration

from stages.models.loading import load_model
from stages.models.plan import apply_plan, part_of, trainable, unread_parameters
from stages.models.sections import Lora, Parts

LORA = Lora(rank=2, alpha=4, dropout=0.0, dora=False, rslora=False, quantize="none")


@pytest.mark.parametrize("plan", list(itertools.product(("frozen", "full", "lora"), repeat=3)), ids="-".join)
def test_what_is_tuned_is_what_the_plan_says(tiny_model, plan):
    parts = Parts(**dict(zip(("vision_tower", "connector", "language_model"), plan, strict=True)))
    model = load_model(tiny_model)
    names = {part: {name for name, _ in model.named_parameters() if part_of(name) == part} for part in parts.model_dump()}
    if set(plan) == {"frozen"}:
        with pytest.raises(ValueError, match="every part is frozen"):
            apply_plan(model, parts, LORA)
        return

    tuned = trainable(apply_plan(model, parts, LORA))

    bare = {name.removeprefix("base_model.model.") for name in tuned}
    for part, how in parts.model_dump().items():
        mine = {name for name in bare if part_of(name) == part}
        if how == "frozen":
            assert not mine
        elif how == "full":
            assert {name.replace(".base_layer", "") for name in mine} == names[part] - unread_parameters(load_model(tiny_model))
        else:
            assert mine
            assert all("lora_" in name for name in mine)


def test_lora_on_the_language_model_never_reaches_the_vision_tower_although_their_layers_share_names(tiny_model):
    parts = Parts(vision_tower="frozen", connector="full", language_model="lora")
    tuned = apply_plan(load_model(tiny_model), parts, LORA)
    assert not any("vision_tower" in name and "lora" in name for name, _ in tuned.named_parameters())


def test_layers_above_the_one_the_connector_reads_are_not_waited_for(tiny_model):
    model = load_model(tiny_model)
    assert all("post_layernorm" in name for name in unread_parameters(model))
    model.config.vision_feature_layer = -2
    assert any(".layers.1." in name for name in unread_parameters(model))
    assert not any(".layers.0." in name for name in unread_parameters(model))


@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize(("layer", "below"), [(-1, 3), (-2, 2), ([-2, -3], 2)], ids=str)
def test_every_layer_the_connector_reads_is_tuned_and_gets_a_gradient_and_none_above_is_waited_for(
    tiny_model, layer, below, how
):
    config = AutoConfig.from_pretrained(tiny_model)
    config.vision_config.num_hidden_layers, config.vision_feature_layer = 3, layer
    tuned = apply_plan(
        LlavaForConditionalGeneration(config), Parts(vision_tower=how, connector="full", language_model="full"), LORA
    )
    ids = torch.tensor([[3, *[config.image_token_id] * 4, 10, 11]])

    tuned(input_ids=ids, pixel_values=torch.rand(1, 3, 16, 16), labels=ids).loss.backward()

    waited_for = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad and parameter.grad is None}
    assert not waited_for, "processes that share a step would fail on the second one"
    tower = [name for name in trainable(tuned) if "vision_tower" in name]
    assert {int(found[1]) for name in tower if (found := re.search(r"layers\.(\d)", name))} == set(range(below))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj.weight", "vision_tower"),
        ("model.multi_modal_projector.linear_1.weight", "connector"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision_tower"),
        ("model.visual.merger.linear_fc1.weight", "connector"),
        ("model.connector.modality_projection.proj.weight", "connector"),
        ("model.text_model.layers.0.mlp.up_proj.weight", "language_model"),
    ],
)
def test_parts_are_found_by_name_in_every_family(name, part):
    assert part_of(name) == part
