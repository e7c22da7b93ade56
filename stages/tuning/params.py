"""The keys that `connect`, `train` and `align` have in common: all of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from stages.models.sections import Lora, Parts
from stages.running.section import Section


class Tuning(Section):
    """How one stage tunes."""

    seed: int
    """Draws the order of the trees, dropout, and LoRA's first weights."""
    device: Literal["auto", "cpu", "cuda"]
    """Where; auto is cuda where there is one."""
    threads: PositiveInt
    """CPU threads of each process. Sums are split among them, so another number gives other last bits."""
    processes: PositiveInt
    """Processes over which a step's trees are divided; on GPUs at most one for each GPU."""
    precision: Literal["bf16", "fp32"]
    """bf16 is autocast over fp32 weights; fp32 is plain."""
    parts: Parts
    """What is done to each part of the model."""
    lora: Lora
    """LoRA's sizes, read only where a part says lora."""
    optimizer: Literal["adamw", "muon"]
    """muon: Muon steps the matrices of the layers that are tuned in full, AdamW everything else; adamw: AdamW all of it."""
    learning_rate: PositiveFloat
    """AdamW's peak learning rate; it falls to zero along a cosine."""
    muon_learning_rate: PositiveFloat
    """Muon's peak learning rate, on AdamW's scale; read only where the optimizer is muon."""
    warmup: Annotated[float, Field(ge=0, le=1)]
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat
    """Weight decay."""
    beta2: Annotated[float, Field(gt=0, lt=1)]
    """AdamW's memory of squared gradients; 0.999 is usual for large models and long runs, less for short ones."""
    replay: Annotated[float, Field(ge=0, le=1)]
    """Share of the trees of the stage before that are learnt again beside this stage's own, so that they are not forgotten."""
    epochs: PositiveFloat
    """Passes over the trees; a fraction is allowed."""
    trees_per_step: PositiveInt
    """Trees behind one optimizer step, over all processes."""
    tokens_per_batch: PositiveInt
    """Tokens in one forward pass of one process at most: what memory hangs on. A step has as many passes as that takes."""
    checkpoint_steps: PositiveInt
    """Steps between two checkpoints: the most tuning that a kill can cost while the stage tunes. They go once it has ended."""
    weighting: Literal["token", "example"]
    """What counts alike in the loss: each supervised token, or each example, so that long answers do not drown short ones."""
    share_prefix: Literal["auto", "never"]
    """auto: branches behind one picture share it where the model's family is proved to allow that; never: separate rows."""

    @model_validator(mode="after")
    def _something_is_tuned(self) -> Self:
        if set(self.parts.model_dump().values()) == {"frozen"}:
            raise ValueError("every part is frozen: nothing would be tuned; set one of parts.* to full or lora")
        return self

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.trees_per_step % self.processes:
            raise ValueError(
                f"trees_per_step {self.trees_per_step} must be a multiple of processes {self.processes}; change one of them"
            )
        return self
