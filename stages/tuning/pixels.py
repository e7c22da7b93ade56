"""Pictures as a model's processor gives them."""

import io
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from stages.corpus.decoding import FORMATS
from stages.corpus.pictures import read_images, stores
from stages.trees.tree import Tree
from stages.trees.written import image_token

CACHED_MIB = 2048
"""Preprocessed pictures kept in memory; what does not fit is preprocessed again in every epoch."""
OF_WORDS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}
"""What a processor says of words; all else it gives is about pictures."""
PADDED = {"pixel_values", "pixel_attention_mask"}
"""What the processors themselves pad with zeros, in tiles, height or width, to the largest picture of one call."""


class Pixels:
    """Pictures as the model's processor gives them, by sha256."""

    def __init__(self, ingested: Path, trees: Sequence[Tree], processor: ProcessorMixin) -> None:
        """Read the pictures of `trees`.

        Raises:
            ValueError: pictures are missing, or what the processor makes of their shapes cannot lie in one batch.
        """
        wanted = {digest for tree in trees for digest in tree.images}
        self.content = dict(read_images(stores(ingested), wanted))
        if missing := wanted - self.content.keys():
            raise ValueError(
                f"{len(missing)} pictures of the trees are not in {ingested} (first {min(missing)}); run `dvc repro`"
            )
        self.processor: Any = processor
        self.cache: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}
        self.room = CACHED_MIB * 2**20
        # Tried on the most unlike of them now, so that no run ends in its middle because two of them met in a batch.
        beside([self(digests) for digests in self._most_unlike({tree.images for tree in trees if tree.images})])

    def __call__(self, digests: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """What the processor makes of the pictures of one tree, as it would for inference, without what it says of words."""
        if digests in self.cache:
            return self.cache[digests]
        shown = [self._open(digest).convert("RGB") for digest in digests]
        # Not its image processor alone: how many tiles a picture is cut into hangs, in some families, on what the processor
        # tells that one, and on how many pictures stand in the conversation.
        text = image_token(self.processor) * len(shown)
        given = self.processor(text=[text], images=[shown], return_tensors="pt")
        made = {name: tensor for name, tensor in given.items() if name not in OF_WORDS}
        size = sum(tensor.nbytes for tensor in made.values())
        if size <= self.room:
            self.room -= size
            self.cache[digests] = made
        return made

    def _open(self, digest: str) -> Image.Image:
        return Image.open(io.BytesIO(self.content[digest]), formats=FORMATS)

    def _most_unlike(self, sets: Collection[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """The widest, the tallest, the smallest, the largest, the most and the fewest: sets of pictures of some trees."""
        sizes = {digests: self._open(digests[0]).size for digests in sorted(sets)}
        kinds: list[Callable[[tuple[str, ...]], float]] = [
            lambda digests: sizes[digests][0] / sizes[digests][1],
            lambda digests: sizes[digests][0] * sizes[digests][1],
            len,
        ]
        return list(dict.fromkeys(end(sizes, key=kind) for kind in kinds for end in (min, max))) if sizes else []


def beside(made: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What was made of the pictures of several trees, as the processor would have made it of all of them at once.

    The first dimension counts pictures, tiles or conversations, as the family has it; along it one tree follows the other.
    Where another differs, all are padded to the largest.

    Raises:
        ValueError: dimensions differ of something whose padding is not known.
    """
    joined = {}
    for name in made[0] if made else ():
        tensors = [one[name] for one in made]
        shapes = sorted({tuple(tensor.shape[1:]) for tensor in tensors})
        if len(shapes) > 1:
            if name not in PADDED or len({len(shape) for shape in shapes}) > 1:
                raise ValueError(
                    f"the base model's processor makes {name} of shapes {shapes} of different pictures, and they cannot lie in "
                    f"one batch: only {' and '.join(sorted(PADDED))} are padded; choose another base.model in params.yaml"
                )
            tensors = [_padded(tensor, [max(sizes) for sizes in zip(*shapes, strict=True)]) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined


def _padded(tensor: torch.Tensor, largest: Sequence[int]) -> torch.Tensor:
    """`tensor` with zeros behind it in every dimension but the first, up to the sizes in `largest`."""
    larger = tensor.new_zeros(len(tensor), *largest)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger
