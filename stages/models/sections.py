"""The parts of params.yaml that describe models; apart from the models' code, so that reading params needs no torch."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

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


class Parts(Section):
    """What is done to each part of the model: frozen, full or lora."""

    vision_tower: How
    """The picture's encoder."""
    connector: How
    """The layers between the two."""
    language_model: How
    """The language model with its embeddings and head."""


class Lora(Section):
    """LoRA's sizes, read only where a part says lora."""

    rank: PositiveInt
    """Rank of the update."""
    alpha: PositiveInt
    """Scale of the update, divided by rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the update's input that is dropped in training."""
