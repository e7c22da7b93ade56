"""Trees in the order they are learnt, as batches of a model."""

import io
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from stages.corpus.decoding import FORMATS
from stages.corpus.pictures import read_images, stores
from stages.trees.batch import additive, batch_trees, separate_rows
from stages.trees.chat import image_token
from stages.trees.tree import Tree

CACHED_MIB = 2048
"""Preprocessed pictures kept in memory; what does not fit is preprocessed again in every epoch."""
OF_WORDS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
"""What a processor says of words; all else it gives is about pictures."""
PADDED = {"pixel_values", "pixel_attention_mask"}
"""What the processors themselves pad with zeros, in tiles, height or width, to the largest picture of one call."""


class Ordered(Dataset[Tree]):
    """All epochs laid out as one sequence, so that where a run stands is one number, and resuming is a seek."""

    def __init__(self, trees: Sequence[Tree], order: Sequence[int]) -> None:
        self.trees, self.order = trees, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Tree:
        return self.trees[self.order[position]]


def order(
    trees: Sequence[Tree], epochs: float, per_step: int, seed: int, per_batch: int | None = None, processes: int = 1
) -> list[int]:
    """Indices of `trees` for all `epochs`, shuffled anew in each; whole steps only, each sorted by length.

    Sorted within a step and never across steps: the batches of a step pad little, and every step still sees a fair mix. The
    last step is filled up from one more shuffle, so no tree is left out of an epoch and every step is full.
    """
    generator = random.Random(seed)
    wanted = max(per_step, -(-round(len(trees) * epochs) // per_step) * per_step)
    drawn: list[int] = []
    while len(drawn) < wanted:
        epoch = list(range(len(trees)))
        generator.shuffle(epoch)
        drawn += epoch
    steps = [drawn[first : first + per_step] for first in range(0, wanted, per_step)]
    one_pass = (per_batch or per_step) * processes
    laid: list[int] = []
    for step in steps:
        step.sort(key=lambda index: trees[index].tokens)
        for first in range(0, per_step, one_pass):
            # Processes take batches in turn and wait for the slowest, so all get as many long trees as short ones.
            for process in range(processes):
                laid += step[first : first + one_pass][process::processes]
    return laid


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


class Collator:
    """Lists of trees → keyword arguments of the model's forward."""

    def __init__(self, pixels: Pixels, processor: ProcessorMixin, shared: bool, eager: bool, weighting: str) -> None:
        """`shared`: branches share their prefix under the tree mask; else every branch is a plain row of its own.

        `eager`: the model's attention adds its mask, so it must be numbers. `weighting`: token or example.
        """
        self.pixels, self.shared, self.eager, self.weighting = pixels, shared, eager, weighting
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.image_id: int | None = getattr(processor, "image_token_id", None)
        self.marks_images = "mm_token_type_ids" in processor.model_input_names

    def __call__(self, trees: Sequence[Tree]) -> dict[str, torch.Tensor]:
        """The inputs of one forward pass; the loss is asked for at the N supervised positions only."""
        if not self.shared:
            trees = [row for tree in trees for row in separate_rows(tree)]
        batch = batch_trees(trees, self.pad_id)
        inputs = {
            "input_ids": batch.input_ids,
            # transformers takes a bool mask of [B, L] here, and computes logits at those positions only: [N, vocabulary].
            "logits_to_keep": batch.asked,
            "labels": batch.labels,
            "weights": weights(trees, self.weighting),
        }
        if self.shared:
            inputs["position_ids"] = batch.position_ids
            inputs["attention_mask"] = additive(batch.allowed, torch.float32) if self.eager else batch.allowed
        else:
            # Positions are the model's own business then: some families count them in three dimensions.
            lengths = torch.tensor([tree.tokens for tree in trees])
            inputs["attention_mask"] = torch.lt(torch.arange(batch.input_ids.shape[1]), lengths[:, None]).long()
            if self.marks_images and self.image_id is not None:
                inputs["mm_token_type_ids"] = batch.input_ids.eq(self.image_id).long()
        return inputs | beside([self.pixels(tree.images) for tree in trees if tree.images])


def weights(trees: Sequence[Tree], weighting: str) -> torch.Tensor:
    """[N] float32: how much each supervised token counts. By token: 1 each; by example: an answer's tokens share 1."""
    sizes = [sum(branch.supervised) for tree in trees for branch in tree.branches]
    return torch.tensor([1.0 if weighting == "token" else 1.0 / size for size in sizes for _ in range(size)])
