"""Trees in the order they are learnt, as batches of a model."""

import heapq
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
from stages.trees.attention import layout
from stages.trees.batch import batch_trees, padded_rows
from stages.trees.chat import image_token
from stages.trees.families import Positions
from stages.trees.tree import Tree

CACHED_MIB = 2048
"""Preprocessed pictures kept in memory; what does not fit is preprocessed again in every epoch."""
OF_WORDS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
"""What a processor says of words; all else it gives is about pictures."""
PADDED = {"pixel_values", "pixel_attention_mask"}
"""What the processors themselves pad with zeros, in tiles, height or width, to the largest picture of one call."""


class Ordered(Dataset[Sequence[Tree]]):
    """All batches of all epochs as one sequence, so that where a run stands is one number, and resuming is a seek."""

    def __init__(self, batches: Sequence[Sequence[Tree]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> Sequence[Tree]:
        return self.batches[position]


def order(trees: Sequence[Tree], epochs: float, per_step: int, seed: int) -> list[list[int]]:
    """Indices of `trees` for all `epochs`, shuffled anew in each, in whole optimizer steps of `per_step`.

    The last step is filled up from one more shuffle, so no tree is left out of an epoch and every step is full.
    """
    generator = random.Random(seed)
    wanted = max(per_step, -(-round(len(trees) * epochs) // per_step) * per_step)
    drawn: list[int] = []
    while len(drawn) < wanted:
        epoch = list(range(len(trees)))
        generator.shuffle(epoch)
        drawn += epoch
    return [drawn[first : first + per_step] for first in range(0, wanted, per_step)]


def packed(steps: Sequence[Sequence[int]], sizes: Sequence[int], budget: int, processes: int) -> list[list[list[int]]]:
    """Each step's trees in batches of at most `budget` tokens: as few as do for all steps, as equal as can be within each.

    As many in every step, for every process takes as many; equal, since processes take batches in turn and wait for the
    slowest.

    Args:
        steps: Indices of trees.
        sizes: Tokens of each tree.
        budget: Tokens of a batch at most.
        processes: The number of batches is a multiple of it.

    No tree may be larger than the budget, and no step shorter than `processes`.
    """
    count = max(-(-sum(sizes[index] for index in step) // budget) for step in steps)
    count = -(-count // processes) * processes
    while True:
        laid = [_equal(step, sizes, count) for step in steps]
        if max(sum(sizes[index] for index in batch) for step in laid for batch in step) <= budget:
            return laid
        count += processes


def refuse_large(stage: str, trees: Sequence[Tree], budget: int) -> None:
    """Refuse trees that no batch of `budget` tokens can hold.

    Raises:
        ValueError: some are larger.
    """
    large = [one for one in trees if one.tokens > budget]
    if large:
        first = large[0].branches[0]
        raise ValueError(
            f"{len(large)} trees of {stage} have more than {stage}.tokens_per_batch {budget} tokens (first: that of row "
            f"{first.row} of source {first.source}, {large[0].tokens}); raise it, or lower render.max_tokens, in params.yaml"
        )


def _equal(step: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """`step` in `count` batches of tokens as equal as the longest-first rule makes them (Graham 1969: within a third)."""
    batches: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]
    for index in sorted(step, key=lambda index: (-sizes[index], index)):
        tokens, number = heapq.heappop(filled)
        batches[number].append(index)
        heapq.heappush(filled, (tokens + sizes[index], number))
    return batches


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
    """The trees of a batch → keyword arguments of the model's forward."""

    def __init__(
        self, pixels: Pixels, processor: ProcessorMixin, flat: bool, weighting: str, positions: Positions | None = None
    ) -> None:
        """`flat`: trees lie in one row, without padding; else each must have one branch and is a padded row of its own.

        `weighting`: token or example. `positions`: the model's own, where it counts them in three dimensions.
        """
        self.pixels, self.flat, self.weighting, self.positions = pixels, flat, weighting, positions
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.image_id: int | None = getattr(processor, "image_token_id", None)
        self.marks_images = "mm_token_type_ids" in processor.model_input_names

    def __call__(self, batches: Sequence[Sequence[Tree]]) -> dict[str, Any]:
        """The inputs of one forward pass, of the only batch there is; N supervised positions are asked, and no others."""
        (trees,) = batches
        words = self._trees(trees) if self.flat else self._rows(trees)
        return (
            words
            | {"weights": weights(trees, self.weighting)}
            | beside([self.pixels(one.images) for one in trees if one.images])
        )

    def _trees(self, trees: Sequence[Tree]) -> dict[str, Any]:
        batch = batch_trees(trees)
        positions = batch.position_ids
        if self.positions is not None:
            each = [self.positions(one, self.pixels(one.images) if one.images else {}) for one in trees]
            positions = torch.cat(each, 1)[:, None]
        return {
            "input_ids": batch.input_ids,
            "position_ids": positions,
            "tree": layout(batch),
            # transformers takes a bool mask of [B, L] here, and computes logits at those positions only: [N, vocabulary].
            "logits_to_keep": batch.asked,
            "labels": batch.labels,
            "use_cache": False,
        }

    def _rows(self, trees: Sequence[Tree]) -> dict[str, Any]:
        ids, mask, asked, labels = padded_rows(trees, self.pad_id)
        words = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": asked, "labels": labels}
        # Positions are the model's own business then: some families count them in three dimensions.
        if self.marks_images and self.image_id is not None:
            words["mm_token_type_ids"] = ids.eq(self.image_id).long()
        return words


def weights(trees: Sequence[Tree], weighting: str) -> torch.Tensor:
    """[N] float32: how much each supervised token counts. By token: 1 each; by example: an answer's tokens share 1."""
    sizes = [sum(branch.supervised) for tree in trees for branch in tree.branches]
    return torch.tensor([1.0 if weighting == "token" else 1.0 / size for size in sizes for _ in range(size)])
