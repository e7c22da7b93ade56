"""Pictures that show the same: resized, compressed again, a little brighter.

Hashes within a few bits (`stages/corpus/hamming.py`) only say where to look: plain drawings have near hashes and show different
things, and a hash knows no colour. So the pictures whose hashes are near are decoded, small, and compared. Whether two are
twins hangs on these two alone; twins of twins count as one content.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from stages.corpus.decoding import FORMATS
from stages.corpus.hamming import Hashes, pairs
from stages.corpus.marks import Numbers
from stages.corpus.pictures import places, read_looks, read_rows, shards_of
from stages.running.memo import Memo
from stages.running.workers import mapped

SIDE = 12
"""Of the small pictures that are compared, in pixels."""
MOST = 24
"""Steps of 255 that any pixel of the small pictures may differ in any colour. Measured on pictures of 96 pixels: JPEG of
quality 50 changes up to 20, brightness by a tenth up to 23, a drawing in another colour or of another shape 60 and more."""
UNLIKE = 0.25
"""Share of the contrast that may be different. It tells pages of text apart, all of which are nearly white."""
FLAT = 2.0
"""Steps of 255, the contrast below which a picture shows nothing that another could show too: of thousands of blank ones with
near hashes none is compared."""
STRETCH = 0.05
"""Share by which the ratios of the sides may differ."""

AT_ONCE = 10_000
"""Pictures that one is compared with at once, which bounds the memory."""

Small = NDArray[np.uint8]


@dataclass(frozen=True)
class Twins:
    """For each picture, by its place among those asked for: the smallest place of its twins and theirs; its hash, 0 if none."""

    alike: Numbers
    phash: Hashes
    compared: int
    """Pictures that had to be decoded."""


def no_twins(pictures: int) -> Twins:
    """Every picture shows something else."""
    return Twins(np.arange(pictures), np.zeros(pictures, dtype=np.uint64), 0)


def twins(stores: Sequence[Path], sha256: pa.Array, distance: int, memo: Memo) -> Twins:
    """Which of the pictures `sha256` (sorted) show the same, by the stores that hold them; at most `distance` bits apart."""
    known, phash, ratio = _looks(stores, sha256)
    pictures = np.flatnonzero(known)
    hashes, of = np.unique(phash[pictures], return_inverse=True)
    left, right, _ = pairs(hashes, hashes, distance)
    # A picture whose hash nobody else has, nor one near it, has no twin.
    several = np.bincount(of, minlength=len(hashes)) > 1
    several[left[left != right]] = True
    wanted = np.zeros(len(sha256), dtype=bool)
    wanted[pictures[several[of]]] = True
    candidates = np.flatnonzero(wanted)
    smalls = _smalls(stores, sha256, wanted, memo)
    alike = np.arange(len(sha256))
    contents = _contents(np.searchsorted(hashes, phash[candidates]), left, right, smalls, np.log(ratio[candidates]))
    alike[candidates] = candidates[contents]
    return Twins(alike, np.where(known, phash, np.uint64(0)), len(candidates))


def _looks(stores: Sequence[Path], sha256: pa.Array) -> tuple[NDArray[np.bool_], Hashes, NDArray[np.float64]]:
    """Of each picture: whether it has a hash, the hash, and its width by its height."""
    known, phash, ratio = np.zeros(len(sha256), dtype=bool), np.zeros(len(sha256), dtype=np.uint64), np.ones(len(sha256))
    looks = read_looks(stores, ["sha256", "phash", "width", "height"])
    looks = looks.filter(pc.is_valid(looks["phash"]))
    place = pc.index_in(looks["sha256"], sha256)
    looks, at = looks.filter(pc.is_valid(place)), place.drop_null().to_numpy()
    known[at], phash[at] = True, looks["phash"].to_numpy()
    ratio[at] = looks["width"].to_numpy() / looks["height"].to_numpy()
    return known, phash, ratio


def _smalls(stores: Sequence[Path], sha256: pa.Array, wanted: NDArray[np.bool_], memo: Memo) -> Small:
    """(wanted, SIDE, SIDE, 3): the wanted pictures, small. Those of one shard of pictures are kept together."""
    names = sha256.filter(pa.array(wanted))
    lie = places(stores, pl.Series(names, dtype=pl.String)).sort("shard", "sha256")
    files = shards_of(stores)
    kept: list[Path] = []
    new: list[tuple[Path, list[str]]] = []
    for (shard,), own in lie.group_by("shard", maintain_order=True):
        asked = own["sha256"].to_list()
        found = memo.recall(asked)
        kept += [found] if found else []
        new += [] if found else [(files[cast(int, shard)], asked)]
    # A group of rows at a time, for a shard is larger than what should be held at once.
    pieces = (
        (number, rows)
        for number, (shard, asked) in enumerate(new)
        for rows in read_rows([shard], ["sha256", "bytes"], set(asked))
    )
    made = mapped(_shrinking, (), pieces)
    for number, parts in groupby(made, key=lambda part: part[0]):
        table = pa.concat_tables([part for _, part in parts])
        kept.append(memo.keep(partial(pq.write_table, table), new[number][1]))
    smalls = np.zeros((len(names), SIDE * SIDE * 3), dtype=np.uint8)
    for path in kept:
        table = pq.read_table(path)
        shown = np.frombuffer(b"".join(table["small"].to_pylist()), dtype=np.uint8)
        smalls[pc.index_in(table["sha256"].cast(pa.string()), names).to_numpy()] = shown.reshape(len(table), -1)
    return smalls.reshape(-1, SIDE, SIDE, 3)


def _shrinking() -> Callable[[tuple[int, pa.Table]], tuple[int, pa.Table]]:
    return _shrunk


def _shrunk(piece: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
    number, pictures = piece
    smalls = [small(content.as_py()).tobytes() for content in pictures["bytes"]]
    return number, pa.table({"sha256": pictures["sha256"].cast(pa.string()), "small": pa.array(smalls, pa.binary())})


def small(content: bytes) -> Small:
    """(SIDE, SIDE, 3): a picture that is known to be whole, small enough that only what it shows is left."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.draft("RGB", (4 * SIDE, 4 * SIDE))  # of a JPEG's pixels no more than needed
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.HAMMING))


def same(one: Small, others: Small) -> NDArray[np.bool_]:
    """Whether each of `others` (n, SIDE, SIDE, 3) shows what `one` shows; the same either way round."""
    apart = others.astype(np.float32) - one
    close = np.abs(apart).max(axis=(1, 2, 3)) <= MOST
    contrast = np.minimum(_contrast(one[None]), _contrast(others))
    return close & (_contrast(apart) <= UNLIKE * contrast)


def _contrast(pictures: Small | NDArray[np.float32]) -> NDArray[np.float32]:
    """The standard deviation of each picture's pixels from the mean of their colour."""
    parts = [np.zeros(0, dtype=np.float32)]
    for first in range(0, len(pictures), AT_ONCE):
        shades = pictures[first : first + AT_ONCE].astype(np.float32)
        parts.append(np.sqrt(shades.var(axis=(1, 2)).mean(axis=1)))
    return np.concatenate(parts)


def _contents(classes: Numbers, left: Numbers, right: Numbers, smalls: Small, stretch: NDArray[np.float64]) -> Numbers:
    """For each picture the first of its twins and theirs; `left` and `right` are the classes of hashes that are near.

    From one picture to its twins, from these to theirs: what is reached is never compared again, so that thousands of copies of
    one picture cost thousands of comparisons, and not their square.
    """
    order = np.argsort(classes, kind="stable")
    known = max(int(part.max(initial=-1)) for part in (classes, left, right)) + 1
    starts = np.searchsorted(classes[order], np.arange(known + 1))
    nearby = np.searchsorted(left, np.arange(len(starts)))
    alike = np.arange(len(classes))
    alone = _contrast(smalls) >= FLAT
    for first in range(len(classes)):
        if not alone[first]:
            continue
        alone[first] = False
        reached = [first]
        for picture in reached:
            own = classes[picture]
            around = right[nearby[own] : nearby[own + 1]]
            others = np.concatenate([order[starts[one] : starts[one + 1]] for one in around])
            others = others[alone[others]]
            others = others[np.abs(stretch[others] - stretch[picture]) <= STRETCH]
            for begin in range(0, len(others), AT_ONCE):
                some = others[begin : begin + AT_ONCE]
                found = some[same(smalls[picture], smalls[some])]
                alone[found] = False
                alike[found] = first
                reached += found.tolist()
    return alike
