"""Trees in the order they are learnt, as batches of a model."""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from stages.corpus.images import read_images, stores
from stages.trees.batch import additive, batch_trees, separate_rows
from stages.trees.tree import Tree

CACHED_MIB = 2048
"""Preprocessed pictures kept in memory; what does not fit is preprocessed again in every epoch."""


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
    """Pictures as the model's image processor gives them, by sha256."""

    def __init__(self, ingested: Path, trees: Sequence[Tree], processor: ProcessorMixin) -> None:
        wanted = {digest for tree in trees for digest in tree.images}
        self.content = dict(read_images(stores(ingested), wanted))
        if missing := wanted - self.content.keys():
            raise ValueError(
                f"{len(missing)} pictures of the trees are not in {ingested} (first {min(missing)}); run `dvc repro`"
            )
        self.image_processor: Any = processor.image_processor
        self.cache: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}
        self.room = CACHED_MIB * 2**20

    def __call__(self, digests: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The image processor's outputs for the pictures of one tree, each with the pictures as first dimension."""
        if digests in self.cache:
            return self.cache[digests]
        pictures = [Image.open(io.BytesIO(self.content[digest])).convert("RGB") for digest in digests]
        made = dict(self.image_processor(images=pictures, return_tensors="pt"))
        size = sum(tensor.nbytes for tensor in made.values())
        if size <= self.room:
            self.room -= size
            self.cache[digests] = made
        return made


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
        shown = [self.pixels(tree.images) for tree in trees if tree.images]
        for name in shown[0] if shown else ():
            inputs[name] = torch.cat([one[name] for one in shown])
        return inputs


def weights(trees: Sequence[Tree], weighting: str) -> torch.Tensor:
    """[N] float32: how much each supervised token counts. By token: 1 each; by example: an answer's tokens share 1."""
    sizes = [sum(branch.supervised) for tree in trees for branch in tree.branches]
    return torch.tensor([1.0 if weighting == "token" else 1.0 / size for size in sizes for _ in range(size)])
