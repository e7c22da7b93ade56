"""Optimizers: AdamW alone, or Muon for the layers' matrices beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stages.tuning.params import Tuning


def matrices(model: Any) -> list[torch.Tensor]:
    """What Muon steps: the tuned weights of linear layers, but for the output head and LoRA's factors.

    Embeddings, the head, norms, biases and convolutions are AdamW's, as in Muon's publication.
    """
    head = model.get_output_embeddings()
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module.weight.requires_grad and "lora_" not in name
    ]


def muon_and_adamw(model: Any, params: Tuning) -> "Side":
    """Muon and AdamW over all that is tuned, each parameter in one of them.

    Muon's update is scaled to the root mean square of AdamW's ("Muon is Scalable for LLM Training", Liu et al. 2025, eq. 4).
    """
    stepped = matrices(model)
    known = {id(parameter) for parameter in stepped}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in known]
    if not stepped:
        raise ValueError(
            "optimizer: muon needs linear layers that are tuned in full, and parts.* leaves none; "
            "set optimizer: adamw in params.yaml, or a part to full"
        )
    decay = params.weight_decay
    muon = torch.optim.Muon(stepped, lr=params.muon_learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    if not others:
        return Side(muon)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.ndim > 1]},
        # Norms and biases do not decay, as with the Trainer's own AdamW.
        {"params": [parameter for parameter in others if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # AdamW first: the curve shows the first group's rate, and it is what `learning_rate` says.
    return Side(torch.optim.AdamW(groups, lr=params.learning_rate, betas=(0.9, params.beta2), weight_decay=decay), muon)


class Side(torch.optim.Optimizer):
    """Optimizers side by side, as one: what steps, schedules or saves this one does so with each."""

    def __init__(self, *each: torch.optim.Optimizer) -> None:
        # No super().__init__: it would make groups of its own, and a schedule must reach theirs.
        self.each = each
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of each; whoever changes a learning rate in them changes it where it is read."""
        return [group for one in self.each for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The state of each, by parameter."""
        return {key: value for one in self.each for key, value in one.state.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of each, apart."""
        return {"each": [one.state_dict() for one in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for one, state in zip(self.each, state_dict["each"], strict=True):
            one.load_state_dict(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for one in self.each:
            one.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step each; a closure, which would run several times, is refused."""
        assert closure is None, "this optimizer takes no closure"
        for one in self.each:
            one.step()
