"""Seeded choices among rows, all on columns: which come first, as many Yes as No, caps, quotas, tasks, and the split.

Nothing is drawn afresh: each row, task or picture has a rank that its content and the seed decide, and a choice takes those
that come first. So a smaller number is a part of a larger one.

`rows` are everywhere the numbers of the marks to choose among, ascending.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.corpus.marks import AGREES, DENIES, Marks, Numbers, rank

Sets = NDArray[np.int32] | NDArray[np.int64]


def places(marks: Marks, rows: Numbers, sets: Sets, kinds: Sets) -> Numbers:
    """The place of each of `rows` within its set, in an order whose every beginning has the set's kinds in proportion.

    The n-th of N rows of a kind stands at (n + ½) / N of the way through all rows of the set. The first 300 are a part of
    the first 1,000, so that a dose differs from a larger one only by what is added.
    """
    draw, source, row = marks.draw[rows], marks.source.of[rows], marks.row[rows]
    cells = sets.astype(np.int64) * (int(kinds.max(initial=0)) + 1) + kinds
    within, size = _counted(np.lexsort((row, source, draw, cells)), cells)
    through = (within + 0.5) / size
    place, _ = _counted(np.lexsort((row, source, draw, through, sets)), sets)
    return place


def _counted(order: Numbers, sets: Sets) -> tuple[Numbers, Numbers]:
    """How many of its set each has before it in `order`, in which sets stand together; and how many its set has."""
    sorted_sets = sets[order]
    begins = np.flatnonzero(np.concatenate([[True], sorted_sets[1:] != sorted_sets[:-1]])) if len(order) else order
    sizes = np.diff(np.concatenate([begins, [len(order)]]))
    within, size = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    within[order] = np.arange(len(order)) - np.repeat(begins, sizes)
    size[order] = np.repeat(sizes, sizes)
    return within, size


def beyond(marks: Marks, rows: Numbers, number: int) -> Numbers:
    """Those of `rows` behind the first `number` of a draw in which all kinds keep their proportions."""
    return rows[places(marks, rows, np.zeros(len(rows), dtype=np.int32), marks.kind.of[rows]) >= number]


def unbalanced(marks: Marks, rows: Numbers) -> tuple[Numbers, Numbers]:
    """Of each judgement task, the rows by which Yes outnumbers No, and those by which No outnumbers Yes."""
    judged = rows[marks.side[rows] >= 0]
    task, side = marks.task.of[judged], marks.side[judged]
    counts = _sides(marks, task, side)
    surplus = _places_of_sides(marks, judged) >= counts.min(axis=1)[task]
    return judged[surplus & (side == AGREES)], judged[surplus & (side == DENIES)]


def over_cap(marks: Marks, rows: Numbers, cap: int, balanced: bool) -> Numbers:
    """Of each task, the rows above the cap, of all its kinds alike; with `balanced`, balanced judgements stay balanced."""
    task = marks.task.of[rows]
    above = places(marks, rows, task, marks.kind.of[rows]) >= cap
    if balanced:
        judgement = marks.side[rows] >= 0
        # The draw says how many judgements the cap has room for, and each side gets half of that.
        room = np.bincount(task[judgement & ~above], minlength=len(marks.task.known))
        full = np.bincount(task[above], minlength=len(marks.task.known)) > 0
        judged = rows[judgement]
        place = _places_of_sides(marks, judged)
        above[judgement] = full[task[judgement]] & (place >= room[task[judgement]] // 2)
    return rows[above]


def _sides(marks: Marks, task: Sets, side: NDArray[np.int8]) -> Numbers:
    """(tasks, 2): judgements of each task by their side."""
    return np.bincount(task.astype(np.int64) * 2 + side, minlength=2 * len(marks.task.known)).reshape(-1, 2)


def _places_of_sides(marks: Marks, judged: Numbers) -> Numbers:
    """The place of each judgement among those of its task on its side."""
    sets = marks.task.of[judged].astype(np.int64) * 2 + marks.side[judged]
    return places(marks, judged, sets, np.zeros(len(judged), dtype=np.int32))


def chosen_tasks(known: Sequence[str], number: int, seed: int) -> list[str]:
    """`number` of the tasks, or all if there are fewer; those of a smaller number are among those of a larger one."""
    return sorted(sorted(known, key=lambda task: (rank(seed, "tasks", task), task))[:number])


def over_quota(marks: Marks, rows: Numbers, cells: Sets, kinds: Sets, quotas: Mapping[int, int | float]) -> Numbers:
    """Of each cell that has a quota, the rows behind as many as it says (a whole number) or such a share of the cell's."""
    size = np.bincount(cells, minlength=max(quotas, default=0) + 1)
    most = np.full(len(size), len(rows), dtype=np.int64)
    for cell, quota in quotas.items():
        most[cell] = quota if isinstance(quota, int) else round(quota * int(size[cell]))
    return rows[places(marks, rows, cells, kinds) >= most[cells]]


def held_out_pictures(marks: Marks, sources: Sequence[str], share: float, alike: Numbers) -> NDArray[np.bool_]:
    """Whether each picture is kept for testing: `share` of those of `sources`, and all that must lie on the same side.

    A row of several pictures takes them all to one side, and `alike`, a number for each picture, those that show the same.
    A picture is held out when its own rank says so or that of one it hangs together with: both only ever become more when
    rows are added, so whatever was held out once is held out for ever. The other way is open: a picture learnt from moves
    to the test when a twin of it comes that is held out.
    """
    wanted = np.isin(np.array(marks.source.known, dtype=object), np.array(sources, dtype=object))
    shown = np.zeros(len(marks.sha256), dtype=bool)
    shown[marks.pictures[wanted[marks.source.of[marks.owner]]]] = True
    seeds = shown & (marks.split < share)
    owner = marks.owner
    together = np.flatnonzero(owner[1:] == owner[:-1])
    twins = np.arange(len(alike))
    group = components(
        len(alike), np.concatenate([marks.pictures[together], twins]), np.concatenate([marks.pictures[together + 1], alike])
    )
    held = np.zeros(len(alike), dtype=bool)
    held[group[seeds]] = True
    return held[group]


def components(nodes: int, left: Numbers, right: Numbers) -> Numbers:
    """For each node the smallest node that edges join it to; `left[i]` and `right[i]` are the ends of an edge.

    Each round hangs the larger root of each edge's ends below the smaller one and then shortens all ways to the roots, after
    Shiloach and Vishkin (An O(log n) parallel connectivity algorithm, 1982).
    """
    root = np.arange(nodes)
    while len(left):
        low, high = np.minimum(root[left], root[right]), np.maximum(root[left], root[right])
        open_edges = low < high
        if not open_edges.any():
            break
        left, right = left[open_edges], right[open_edges]
        np.minimum.at(root, high[open_edges], low[open_edges])
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root = shorter
    return root
