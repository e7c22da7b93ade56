"""The keys that `connect`, `train` and `align` have in common: all of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from stages.models.sections import Lora, Parts, Rates
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
    accelerate: str | None
    """A config by which `accelerate launch` starts the processes (profiles/accelerate/); null: they start here."""
    workers: NonNegativeInt
    """Processes beside each that tunes, in all no more than cores, which make its next batches ready; 0: it does so itself."""
    precision: Literal["bf16", "fp32", "pure_bf16"]
    """bf16: autocast over fp32 weights; fp32: plain. pure_bf16: half the memory, for weights are in bf16 too, all but LoRA's
    factors. They are rounded by chance, so that small steps count in the mean; but each keeps eight bits."""
    checkpoint_activations: bool
    """Forget what layers computed and compute it again for the gradient: less memory, a third more work."""
    cache_features: bool
    """Keep what a frozen vision tower makes of each picture on disk, for all epochs; sized before it starts."""
    parts: Parts
    """What is done to each part of the model."""
    lora: Lora
    """LoRA's sizes, read only where a part says lora."""
    optimizer: Literal["adamw", "muon"]
    """muon: Muon steps the matrices of the layers that are tuned in full, AdamW everything else; adamw: AdamW all of it."""
    learning_rate: PositiveFloat
    """AdamW's peak learning rate; it falls to zero along a cosine."""
    learning_rates: Rates
    """Peak learning rates of parts that have one of their own."""
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
    step_size: PositiveInt
    """How much is behind one optimizer step, over all processes."""
    step_unit: Literal["trees", "examples"]
    """What step_size counts. A step is made of whole trees: by examples, it ends with the tree that brings it there."""
    tokens_per_batch: PositiveInt
    """Tokens in one forward pass of one process at most: what memory hangs on. A step has as many passes as that takes."""
    checkpoint_steps: PositiveInt
    """Steps between two checkpoints: the most tuning that a kill can cost while the stage tunes. They go once it has ended."""
    jump: NonNegativeFloat
    """A loss of so many times the median of the last steps' stops the run, with a checkpoint; 0: none does."""
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
    def _cached_features_stay_true(self) -> Self:
        if self.cache_features and self.parts.vision_tower != "frozen":
            raise ValueError(
                f"cache_features is true, but parts.vision_tower is {self.parts.vision_tower}, so what it makes of a picture "
                "changes with every step; set it to frozen, or cache_features to false"
            )
        return self

    @model_validator(mode="after")
    def _four_bits_compute_in_bf16(self) -> Self:
        if self.lora.quantize == "nf4" and self.precision == "fp32" and "lora" in self.parts.model_dump().values():
            raise ValueError("lora.quantize nf4 computes in bf16, and precision is fp32; set precision: bf16 or pure_bf16")
        return self

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.step_unit == "trees" and self.step_size % self.processes:
            raise ValueError(f"step_size {self.step_size} must be a multiple of processes {self.processes}; change one of them")
        return self
