"""The keys that `connect`, `train` and `align` have in common: all of them."""

from typing import Literal

from stages.models.plan import Lora, Parts
from stages.running.section import Section


class Tuning(Section):
    """How one stage tunes."""

    seed: int
    """Draws the order of the trees, dropout, and LoRA's first weights."""
    device: Literal["auto", "cpu", "cuda"]
    """Where; auto is cuda where there is one."""
    threads: int
    """CPU threads. Sums are split among them, so another number gives other last bits."""
    processes: int
    """Processes on this machine, over which a step's trees are divided; more than one go through accelerate launch."""
    precision: Literal["bf16", "fp32"]
    """bf16 is autocast over fp32 weights; fp32 is plain."""
    parts: Parts
    """What is done to each part of the model."""
    lora: Lora
    """LoRA's sizes, read only where a part says lora."""
    learning_rate: float
    """Peak learning rate; it falls to zero along a cosine."""
    warmup: float
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float
    """AdamW's weight decay."""
    epochs: float
    """Passes over the trees; a fraction is allowed."""
    trees_per_step: int
    """Trees behind one optimizer step, over all processes."""
    trees_per_batch: int
    """Trees in one forward pass of one process; trees_per_step is a multiple of this times processes."""
    checkpoint_steps: int
    """Steps between two checkpoints: the most work that a kill can cost."""
    weighting: Literal["token", "example"]
    """What counts alike in the loss: each supervised token, or each example, so that long answers do not drown short ones."""
    share_prefix: Literal["auto", "never"]
    """auto: branches behind one picture share it where the model's family is proved to allow that; never: separate rows."""
