"""Which models can share a prefix exactly, and what stock transformers needs for it.

Held by a test on tiny random models of each family: a batch of trees about pictures of several shapes has the loss and the
gradient of each conversation alone. Families that are not listed are tuned on separate rows, or refused where the loop cannot
give them what they need.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from stages.trees.batch import answers_apart, separate_rows
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
    "gemma3",
}
"""Model types whose image tokens see nothing behind their picture, and that hand positions and the layout on untouched."""
BOTH_WAYS = {"gemma3"}
"""Of these, those where the tokens of one picture see each other; in all others they see their past, as words do."""
PROMPT_FIRST = {"paligemma"}
"""Model types that read a prompt both ways, pictures and question together, and nothing but the answer word by word."""
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
    "gemma3_text",
}
"""Language models whose words see their past and nothing else; windows and capped scores are attention.py's."""


def unfed(model: PreTrainedModel) -> str | None:
    """None if the loop gives `model` all that ties its words to its pictures, else what is missing, for people to read.

    Such a model would not fail: left without, it sees in training what it does not see in inference, or the other way round.
    """
    wanted = inspect.signature(model.forward).parameters
    sent = TYPED.get(_kind(model))
    name = next((name for name in UNSENT if name in wanted and name != sent), None)
    return None if name is None else f"it wants {name}, which {UNSENT[name]}, and the loop sends none"


def why_not_shared(config: PretrainedConfig) -> str | None:
    """None if branches may share a prefix in this model, else the reason, for people to read."""
    if config.model_type in PROMPT_FIRST:
        return (
            f"in {config.model_type} a picture's tokens see the question behind them, so behind each question the picture is "
            "another, and there is no prefix to share"
        )
    if config.model_type not in SHARING:
        return f"{config.model_type} is not among the families proved to share an image prefix exactly"
    text = config.get_text_config()
    if text.model_type not in CAUSAL_TEXT:
        return f"its language model {text.model_type} is not among those proved to share a prefix exactly"
    if getattr(text, "use_bidirectional_attention", None):
        return f"its language model {text.model_type} is set to see what follows (use_bidirectional_attention)"
    return None


def rows_of(config: PretrainedConfig, tree: Tree) -> list[Tree]:
    """What `tree` is to a model that shares no prefix: a row for each conversation.

    Where prompts are read both ways, a row for each answer: what was answered before belongs to the prompt then, as it does
    in inference, and could not be an answer, read word by word, in the same row.
    """
    rows = separate_rows(tree)
    return [one for row in rows for one in answers_apart(row)] if config.model_type in PROMPT_FIRST else rows


Positions = Callable[[Tree, Mapping[str, Tensor]], Tensor]
"""Of a tree, and what the processor made of its pictures: [3, tokens] int64."""
Types = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Of padded rows' ids and of what is asked in them, [B, L] each: which tokens are of which type, by the name it is sent by."""
TYPED = {"gemma3": "token_type_ids", "paligemma": "token_type_ids"}
"""Model types that are told by this name which tokens are of which type; all others, if at all, by `mm_token_type_ids`."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a model is given beside words and pictures."""

    positions: Positions | None = None
    """Its own, where it counts them in three dimensions."""
    types: Types | None = None
    """In padded rows, which tokens are of which type; trees need no such, for their layout says who sees whom."""
    picture: int | None = None
    """In trees, the image token, if the tokens of a picture see each other both ways."""


PLAIN = Family()


def family_of(model: PreTrainedModel) -> Family:
    """What `model` is given beside words and pictures."""
    picture = model.config.image_token_id if _kind(model) in BOTH_WAYS else None
    return Family(positions_of(model), types_of(model), picture)


def types_of(model: PreTrainedModel) -> Types | None:
    """How `model` is told, in rows, which tokens are of which type; None if it wants no telling."""
    if _kind(model) in PROMPT_FIRST:
        return _answers_marked
    name = TYPED.get(_kind(model), "mm_token_type_ids")
    if name not in inspect.signature(model.forward).parameters:
        return None
    return partial(_images_marked, name, model.config.image_token_id)


def _images_marked(name: str, image: int, ids: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """1 for image tokens, 0 for all else, as processors mark them."""
    return {name: ids.eq(image).long()}


def _answers_marked(ids: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """0 up to where the answer begins, 1 from there on: as a processor marks prompt and suffix."""
    return {"token_type_ids": (asked.cumsum(1) - asked.long()).gt(0).long()}


def _kind(model: PreTrainedModel) -> str:
    return getattr(getattr(model, "config", None), "model_type", "")


def positions_of(model: PreTrainedModel) -> Positions | None:
    """How `model` counts positions in three dimensions, as the Qwen-VLs do; None if it counts them in one."""
    inner: Any = model.base_model
    if not hasattr(inner, "get_rope_index"):
        return None
    image_id = model.config.image_token_id

    def places(tree: Tree, pictures: Mapping[str, Tensor]) -> Tensor:
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
