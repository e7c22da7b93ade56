"""The freeze plan: which part of the model is frozen, tuned in full, or tuned through LoRA; and the proof that it is so."""

import re

import peft
from torch import nn
from transformers import PreTrainedModel

from stages.models.sections import Lora, Parts

PARTS = {
    # Read in this order: in some families the connector lies inside the vision module.
    "connector": re.compile(r"(multi_modal_projector|connector|merger|embed_vision)\."),
    "vision_tower": re.compile(r"(vision_tower|vision_model|visual|vision_embed_tokens)\."),
    "language_model": re.compile(r""),
}
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2", "out_proj")
"""The linear layers that get LoRA in a part that is tuned so: all of attention and MLP, by their names in transformers."""


def part_of(name: str) -> str:
    """The part a parameter or module belongs to, by its name."""
    return next(part for part, pattern in PARTS.items() if pattern.search(name))


def apply_plan(model: PreTrainedModel, parts: Parts, lora: Lora) -> nn.Module:
    """`model` with the plan carried out: a `PeftModel` if any part is tuned through LoRA, else the model itself.

    Parameters that can never get a gradient (layers above the one the connector reads) are frozen whatever the plan says:
    in data-parallel training they would be waited for in vain.

    Raises:
        ValueError: nothing would be tuned.
    """
    plan = parts.model_dump()
    if set(plan.values()) == {"frozen"}:
        raise ValueError("every part is frozen: nothing would be tuned; set one of parts.* to full or lora in params.yaml")
    tuned: nn.Module = model
    unread = unread_parameters(model)
    if "lora" in plan.values():
        targets = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            and f"{name}.weight" not in unread  # an adapter there would be waited for as well
            and plan[part_of(name + ".")] == "lora"
            and (name.rsplit(".", 1)[-1] in LORA_TARGETS or part_of(name + ".") == "connector")
        ]
        config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        tuned = peft.get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        bare = name.removeprefix("base_model.model.").replace(".base_layer", "")
        how = plan[part_of(bare)]
        is_adapter = "lora_" in name
        parameter.requires_grad_(is_adapter or (how == "full" and bare not in unread))
    check_plan(tuned, parts)
    return tuned


def unread_parameters(model: PreTrainedModel) -> set[str]:
    """Names of the parameters whose output the model throws away: of a LLaVA's tower, what lies above the layers it reads."""
    config = model.config
    wanted = getattr(config, "vision_feature_layer", None)
    vision = getattr(config, "vision_config", None)
    if wanted is None or vision is None:
        return set()
    layers = vision.num_hidden_layers
    read = max(layers + 1 + layer if layer < 0 else layer for layer in ([wanted] if isinstance(wanted, int) else wanted))
    unread = set()
    for name, _ in model.named_parameters():
        if part_of(name) != "vision_tower":
            continue
        found = re.search(r"\.layers\.(\d+)\.", name)
        if "post_layernorm" in name or ".head." in name or (found and int(found[1]) >= read):
            unread.add(name)
    return unread


def trainable(model: nn.Module) -> dict[str, int]:
    """Name and size of every parameter that will be tuned, in the model's order."""
    return {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}


def check_plan(model: nn.Module, parts: Parts) -> None:
    """Hold what will be tuned against the plan.

    Raises:
        AssertionError: a frozen part has a parameter that would be tuned, or a tuned part has none.
    """
    tuned = {part: 0 for part in PARTS}
    for name, size in trainable(model).items():
        tuned[part_of(name.removeprefix("base_model.model."))] += size
    for part, how in parts.model_dump().items():
        assert (tuned[part] == 0) == (how == "frozen"), f"plan says {part}: {how}, but {tuned[part]} parameters are tuned"
