"""Trees as one batch of a model: ids, positions, the tree mask, and the labels at supervised positions only.

Shapes: B trees, L tokens of the longest, N supervised tokens of the batch.

A worked example, one tree with prefix `a b` and branches `c D` and `e F G` (capitals are supervised):

    ids        a b c D e F G
    positions  0 1 2 3 2 3 4        each branch goes on where the prefix ends
    parent     a b c D see a b;  D sees c;  e F G see a b and each other's past, never c D
    labels     D F G                asked at c, e, F
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.trees.tree import Tree


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """The model's inputs for B trees."""

    input_ids: Tensor
    """[B, L] int64, padded on the right."""
    position_ids: Tensor
    """[B, L] int64; in each branch they go on where the prefix ends."""
    allowed: Tensor
    """[B, 1, L, L] bool: whether the token of row i may see the token of column j."""
    asked: Tensor
    """[B, L] bool: positions whose next token is supervised; there are N."""
    labels: Tensor
    """[N] int64: these next tokens, in the order of `asked`."""


def batch_trees(trees: Sequence[Tree], pad_id: int) -> TreeBatch:
    """Lay `trees` side by side.

    The mask makes every branch see exactly what it would see as a row of its own, so loss and gradient are the same.
    """
    longest = max(tree.tokens for tree in trees)
    ids = np.full((len(trees), longest), pad_id, np.int64)
    positions = np.zeros((len(trees), longest), np.int64)
    # 0 is the prefix, 1, 2, … the branches, -1 padding.
    node = np.full((len(trees), longest), -1, np.int64)
    asked = np.zeros((len(trees), longest), bool)
    labels: list[int] = []
    for b, tree in enumerate(trees):
        end = len(tree.prefix)
        ids[b, :end], positions[b, :end], node[b, :end] = tree.prefix, np.arange(end), 0
        for number, branch in enumerate(tree.branches, 1):
            assert not branch.supervised[0], "a branch begins with an answer: nothing would ask for its first token"
            start, end = end, end + len(branch.ids)
            ids[b, start:end] = branch.ids
            positions[b, start:end] = np.arange(len(tree.prefix), len(tree.prefix) + len(branch.ids))
            node[b, start:end] = number
            asked[b, start : end - 1] = branch.supervised[1:]
            labels += [id for id, wanted in zip(branch.ids, branch.supervised, strict=True) if wanted]
    past = np.tri(longest, dtype=bool)
    seen = (node[:, None, :] == 0) | (node[:, None, :] == node[:, :, None])
    # A row of padding must see something, or its softmax is 0/0: it sees itself.
    allowed = past & seen & (node[:, None, :] >= 0) | np.eye(longest, dtype=bool)
    return TreeBatch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(allowed[:, None]),
        torch.from_numpy(asked),
        torch.tensor(labels, dtype=torch.int64),
    )


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to attention scores: 0 where allowed, the dtype's least elsewhere. Same shape.

    Eager attention adds whatever it is given: a bool mask there is silently wrong.
    """
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


def separate_rows(tree: Tree) -> list[Tree]:
    """The branches of `tree` as trees of one branch each: the same examples, sharing nothing."""
    return [Tree(tree.images, tree.prefix, (branch,)) for branch in tree.branches]
