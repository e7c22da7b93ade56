"""In which numbers a run holds its weights and computes, and the proof that it does."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.tuning.params import Tuning


def held_in(params: Tuning) -> torch.dtype:
    """What the model's own weights are held in. LoRA's factors are float32 whatever the precision: they are few."""
    return torch.bfloat16 if params.precision == "pure_bf16" else torch.float32


def saved_in(params: Tuning) -> torch.dtype:
    """What the tuned model is saved in: what it was held in, but whole where LoRA is merged.

    A merged weight in bfloat16 would have lost the changes below its last bit, which are most of what LoRA learns.
    """
    return torch.float32 if "lora" in params.parts.model_dump().values() else held_in(params)


def is_autocast(params: Tuning) -> bool:
    """Whether torch casts to bfloat16 as it computes: where weights are float32, LoRA's factors among them."""
    return params.precision == "bf16" or held_in(params) != saved_in(params)


class WatchPrecision(TrainerCallback):
    """Looks, in the first step, what each linear layer really computes in.

    A model object that another Trainer had before keeps that one's precision, while the second one says its own.
    """

    def __init__(self, params: Tuning) -> None:
        self.precision = params.precision
        self.wanted = torch.float32 if params.precision == "fp32" else torch.bfloat16
        self.hooks: list[RemovableHandle] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Called by the Trainer before the first step of a run, resumed ones too."""
        # Layers in four bits are another class, with a precision of their own.
        linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
        self.hooks = [module.register_forward_hook(partial(self._look, name)) for name, module in linear]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step."""
        while self.hooks:
            self.hooks.pop().remove()

    def _look(self, name: str, module: nn.Module, given: Any, made: torch.Tensor) -> None:
        if made.dtype != self.wanted:
            raise RuntimeError(
                f"precision is {self.precision}, so {name} must compute in {self.wanted}, and it computes in {made.dtype}; was "
                "the model tuned by another Trainer before? Load it anew for each run"
            )
