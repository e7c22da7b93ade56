"""The parts of params.yaml that describe models; apart from the models' code, so that reading params needs no torch."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stages.running.section import Section

How = Literal["frozen", "full", "lora"]


class Tiny(Section):
    """Sizes of the tiny model."""

    image_size: PositiveInt
    """Side of the square picture the vision tower sees, in pixels."""
    patch_size: PositiveInt
    """Side of one patch, in pixels; one image token stands for one patch."""
    vision_width: PositiveInt
    """Width of the vision tower."""
    vision_layers: PositiveInt
    """Layers of the vision tower; the connector reads the last."""
    text_width: PositiveInt
    """Width of the language model."""
    text_layers: PositiveInt
    """Layers of the language model."""
    heads: PositiveInt
    """Attention heads, in both."""
    vocabulary: PositiveInt
    """Size of the tokenizer's vocabulary, special tokens and 256 bytes included."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        for name in ("vision_width", "text_width"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} {getattr(self, name)} must be a multiple of heads {self.heads}")
        return self


def check_pinned(model: str, revision: str | None) -> None:
    """Refuse a hub id whose commit is not pinned.

    Raises:
        ValueError: `model` is no local folder, and `revision` no commit of 40 hex digits.
    """
    if not Path(model).is_dir() and (revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision)):
        raise ValueError(
            f"base.model {model!r} is no local folder, so it is taken for a hub id, and base.revision must pin its "
            f"commit (40 hex digits), got {revision!r}; a branch name could mean another model tomorrow"
        )


class Parts(Section):
    """What is done to each part of the model: frozen, full or lora."""

    vision_tower: How
    """The picture's encoder."""
    connector: How
    """The layers between the two."""
    language_model: How
    """The language model with its embeddings and head."""


class Rates(Section):
    """Peak learning rates of the parts; null: the stage's own."""

    vision_tower: PositiveFloat | None
    """AdamW's in the vision tower; Muon's, where it steps there, is scaled as this one is."""
    connector: PositiveFloat | None
    """The same in the connector."""
    language_model: PositiveFloat | None
    """The same in the language model."""


class Lora(Section):
    """LoRA's sizes, read only where a part says lora."""

    rank: PositiveInt
    """Rank of the update."""
    alpha: PositiveInt
    """Scale of the update, divided by rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the update's input that is dropped in training."""
    dora: bool
    """Whether the size of each weight's rows is learnt apart from their direction (DoRA, Liu et al. 2024)."""
    rslora: bool
    """Whether alpha is divided by the rank's root and not the rank (rsLoRA, Kalajdzievski 2023)."""
    quantize: Literal["none", "nf4"]
    """nf4: the frozen weights beside LoRA are held in four bits (QLoRA, Dettmers et al. 2023); needs a GPU and bitsandbytes."""
