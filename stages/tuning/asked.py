"""A model's last layer, made to compute only what is asked of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.trees.families import CAUSAL_TEXT

SINGLY = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""The parts of a layer that work token by token, and whose result no other token reads if the layer is the last."""


def compute_only_asked(model: Any) -> None:
    """Have the last layer of `model` pass over the tokens whose logits nobody asks for, as the head does already.

    Behind the last keys and values no token reads another, so what the others become there is lost; of a layer's products
    this saves some four fifths, times the share of tokens that ask for nothing. They leave the layer's parts as zeros. What
    is asked, and each gradient, stays the same sum, without terms that are zero.

    Changes nothing in language models that are not among those known to be built so.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    if whole.config.get_text_config().model_type not in CAUSAL_TEXT:
        return
    asked = _Asked()
    whole.register_forward_pre_hook(asked.read, with_kwargs=True)
    last = whole.get_decoder().layers[-1]
    for name in SINGLY:
        # In some families queries, keys and values are one product.
        if name == "mlp" or hasattr(last.self_attn, name.split(".")[1]):
            asked.narrow(last.get_submodule(name))


class _Asked:
    """Which tokens are asked in the pass at hand; kept until the next one, for layers may be computed again backwards."""

    def __init__(self) -> None:
        self.places: Tensor | None = None

    def read(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before each pass: it says in `logits_to_keep`, [B, L] bool, what is asked; anything else: all is."""
        kept = kwargs.get("logits_to_keep")
        self.places = None
        if isinstance(kept, Tensor) and kept.dtype == torch.bool:
            self.places = kept.flatten().nonzero()[:, 0]

    def narrow(self, part: Any) -> None:
        """Have `part`, [B, L, D] → [B, L, E], compute asked tokens only, and say zero of the others."""
        full: Callable[[Tensor], Tensor] = part.forward

        def forward(given: Tensor) -> Tensor:
            if self.places is None:
                return full(given)
            made = full(given.flatten(0, 1).index_select(0, self.places))
            everything = made.new_zeros(given.shape[0] * given.shape[1], made.shape[-1])
            return everything.index_copy(0, self.places, made).view(*given.shape[:-1], -1)

        part.forward = forward
