"""Which models can share a prefix exactly, and what stock transformers needs for it.

Held by a test on tiny random models of each family: a batch of trees about pictures of several shapes has the loss and the
gradient of each conversation alone. Families that are not listed are tuned on separate rows, or refused where the loop cannot
give them what they need.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from stages.trees.tree import Tree

SHARING = {
    "llava",
    "llava_next",
    "llava_onevision",
    "idefics3",
    "smolvlm",
    "internvl",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
}
"""Model types whose image tokens are plain causal tokens, and that hand positions and the layout on untouched."""
UNSENT = {
    "token_type_ids": "mark its image tokens",
    "image_embeds_position_mask": "mark its image tokens",
    "cross_attention_mask": "say which words see which picture",
    "image_attention_mask": "say which words see which picture",
    "qformer_input_ids": "show the question to its connector",
}
"""What models take beside words and pictures and the loop does not send, and what for."""
CAUSAL_TEXT = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
}
"""Language models whose words see their past and nothing else; windows and capped scores are attention.py's."""


def unfed(model: PreTrainedModel) -> str | None:
    """None if the loop gives `model` all that ties its words to its pictures, else what is missing, for people to read.

    Such a model would not fail: left without, it sees in training what it does not see in inference, or the other way round.
    """
    wanted = inspect.signature(model.forward).parameters
    name = next((name for name in UNSENT if name in wanted), None)
    return None if name is None else f"it wants {name}, which {UNSENT[name]}, and the loop sends none"


def why_not_shared(config: PretrainedConfig) -> str | None:
    """None if branches may share a prefix in this model, else the reason, for people to read."""
    if config.model_type not in SHARING:
        return f"{config.model_type} is not among the families proved to share an image prefix exactly"
    text = config.get_text_config()
    if text.model_type not in CAUSAL_TEXT:
        return f"its language model {text.model_type} is not among those proved to share a prefix exactly"
    return None


Positions = Callable[[Tree, Mapping[str, torch.Tensor]], torch.Tensor]
"""Of a tree, and what the processor made of its pictures: [3, tokens] int64."""


def positions_of(model: PreTrainedModel) -> Positions | None:
    """How `model` counts positions in three dimensions, as the Qwen-VLs do; None if it counts them in one."""
    inner: Any = model.base_model
    if not hasattr(inner, "get_rope_index"):
        return None
    image_id = model.config.image_token_id

    def places(tree: Tree, pictures: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Those of the prefix are the model's own; each branch goes on behind the largest of them, alike in all dimensions."""
        parts, start = [torch.zeros(3, 0, dtype=torch.int64)], 0
        if tree.prefix:
            ids = torch.tensor([tree.prefix])
            grids = {name: pictures[name] for name in ("image_grid_thw",) if name in pictures}
            above, _ = inner.get_rope_index(input_ids=ids, mm_token_type_ids=ids.eq(image_id).int(), **grids)
            parts, start = [above[:, 0]], int(above.max()) + 1
        parts += [(torch.arange(len(branch.ids)) + start).expand(3, -1) for branch in tree.branches]
        return torch.cat(parts, 1)

    return places
