"""Trees as one row of a model: ids and positions without padding, what is asked where, and who sees whom.

Shapes: T tokens of all trees of a batch, N supervised among them.

A worked example, one tree with prefix `a b` and branches `c D` and `e F G` (capitals are supervised):

    ids        a b c D e F G
    positions  0 1 2 3 2 3 4        each branch goes on where the prefix ends
    node       0 0 1 1 2 2 2
    who sees   a b c D see a b;  D sees c;  e F G see a b and each other's past, never c D
    labels     D F G                asked at c, e, F

Trees follow each other in the row and never see each other; stages/trees/attention.py keeps them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stages.trees.tree import Tree


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """The model's inputs for some trees."""

    input_ids: Tensor
    """[1, T] int64."""
    position_ids: Tensor
    """[1, T] int64; in each branch they go on where the prefix ends."""
    tree: Tensor
    """[T] int64: the number of each token's tree in the batch, ascending."""
    node: Tensor
    """[T] int64: 0 in a tree's prefix, 1, 2, … in its branches."""
    asked: Tensor
    """[1, T] bool: tokens whose next one is supervised; there are N."""
    labels: Tensor
    """[N] int64: these next tokens, in the order of `asked`."""


def batch_trees(trees: Sequence[Tree]) -> TreeBatch:
    """Lay `trees` one behind the other."""
    ids: list[int] = []
    spans: list[tuple[int, int, int, int]] = []  # tree, node, first position, tokens
    supervised: list[bool] = []
    for number, tree in enumerate(trees):
        start = len(tree.prefix)
        ids += tree.prefix
        supervised += [False] * start
        spans.append((number, 0, 0, start))
        for node, branch in enumerate(tree.branches, 1):
            assert not branch.supervised[0], "a branch begins with an answer: nothing would ask for its first token"
            ids += branch.ids
            supervised += branch.supervised
            spans.append((number, node, start, len(branch.ids)))
    tokens = np.array(spans, np.int64)[:, 3]
    starts = np.cumsum(tokens) - tokens
    tree_of, node_of, first = (np.repeat(column, tokens) for column in np.array(spans, np.int64)[:, :3].T)
    said = np.array(supervised, bool)
    row = np.array(ids, np.int64)
    return TreeBatch(
        torch.from_numpy(row[None]),
        torch.from_numpy((np.arange(len(row)) - np.repeat(starts, tokens) + first)[None]),
        torch.from_numpy(tree_of),
        torch.from_numpy(node_of),
        # No branch begins supervised, so the token before a supervised one is of the same branch.
        torch.from_numpy(np.append(said[1:], False)[None]),
        torch.from_numpy(row[said]),
    )


def separate_rows(tree: Tree) -> list[Tree]:
    """The branches of `tree` as trees of one branch each: the same examples, sharing nothing."""
    return [Tree(tree.images, tree.prefix, (branch,)) for branch in tree.branches]


def answers_apart(row: Tree) -> list[Tree]:
    """`row`, of one branch, as one row for each of its answers, which ends with it: what is read before each is its prompt."""
    (branch,) = row.branches
    ends = [place for place, said in enumerate(branch.supervised, 1) if said and not any(branch.supervised[place : place + 1])]
    rows, last = [], 0
    for end in ends:
        own = replace(branch, ids=branch.ids[:end], supervised=(False,) * last + branch.supervised[last:end])
        rows.append(replace(row, branches=(own,)))
        last = end
    return rows


def padded_rows(rows: Sequence[Tree], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`rows` of one branch each as a plain batch, padded on the right: for models that cannot share a prefix.

    Returns:
        ids [B, L] int64, mask [B, L] int64 (1 where there is a token), asked [B, L] bool, labels [N] int64.
    """
    batches = [batch_trees([row]) for row in rows]
    shape = len(rows), max(row.tokens for row in rows)
    ids, mask = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64)
    asked = torch.zeros(shape, dtype=torch.bool)
    for number, one in enumerate(batches):
        own = one.input_ids.shape[1]
        ids[number, :own], mask[number, :own], asked[number, :own] = one.input_ids[0], 1, one.asked[0]
    return ids, mask, asked, torch.cat([one.labels for one in batches])
