"""Whether one picture is a copy of another: scaled, compressed, cut at its edges by up to a tenth, or mirrored left to right.

Two looks. The first is cheap enough for each picture against each: a hash (`decoding.phash`) differs in few bits between a
picture and its scaled or compressed copy, but not its cropped one. So several are made of the picture that may have been
copied, near those of its copies cut at the edges, mirrored ones too (`hashes`), and one of the picture that may be the copy.
A part of the other is found so, and not a whole of which the other is a part. The second look is for the few pairs that the
first finds near: the copy is laid over the crop whose hash is near, then over what a search from there comes to, and compared
(`compared`). It tells apart what a hash cannot: digits, tables, plain shapes on a plain ground. Neither look sees transparency,
nor turns a picture as its EXIF says.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.corpus.decoding import FORMATS, LOW, SIDE, phash

Floats = NDArray[np.floating]

CROPS = {1.0: 1, 0.95: 2, 0.9: 3}
"""Shares of a picture's width and height that its crops keep, and how many places of such a crop, across and down.

On photographs these 14 crops leave 97 % of random crops of up to a tenth within 8 bits of one of them; without, 6 %.
"""
HASHED = 96
"""Side, in pixels, of the picture from which crops are hashed."""
SHOWN, BASE = 48, 72
"""Side, in pixels, at which two pictures are compared, and of the one that is cut for it.

Products of matrices this small are computed by one thread (OpenBLAS: up to 2¹⁸ multiplications). Larger ones wake threads in
every process, which then wait for each other: on a busy machine that took fifty times as long.
"""
PATCHES = 8
"""Patches of a compared picture, across and down."""
ROUNDS = (6, 4)
"""Steps to lay one picture over the other: of half their size, then of all."""
LONGEST_STEP = 0.03
"""Of a picture's side, that a crop's edge moves in a step."""
PATCH = np.kron(np.eye(PATCHES, dtype=np.float32), np.full(SHOWN // PATCHES, PATCHES / SHOWN, dtype=np.float32))
"""[PATCHES, SHOWN]: from each side takes a picture to the means of its patches."""
FLAT = 2.0
"""Root mean square contrast, in levels of 0 to 255, under which a picture shows nothing that could be compared: that of its
strongest colour where hashes are made, that over all three where two are compared."""


def _crops() -> Floats:
    """[crops, 4]: top, height, left, width, as shares; the whole picture first."""
    places = [(share, np.linspace(0, 1 - share, many)) for share, many in CROPS.items()]
    return np.array([(top, share, left, share) for share, offsets in places for top in offsets for left in offsets])


CROP = _crops()
HASHES = 2 * len(CROP)
"""Of each picture: of its crops, then of the same crops mirrored."""


def _cosines() -> tuple[Floats, Floats]:
    """[crops, LOW, HASHED] down and across: what takes a picture of `HASHED` pixels to the low frequencies of a crop.

    The cosines of `phash` are stretched over the crop's part of the pixels, each pixel by its share in it. `phash` of the crop
    itself, which is scaled first, is near and not the same.
    """
    edges = np.arange(HASHED + 1) / HASHED
    middles = (edges[:-1] + edges[1:]) / 2

    def along(start: Floats, share: Floats) -> Floats:
        place = (middles[None] - start[:, None]) / share[:, None]
        within = np.minimum(edges[None, 1:], (start + share)[:, None]) - np.maximum(edges[None, :-1], start[:, None])
        waves = np.cos(np.pi * np.arange(LOW)[None, :, None] * place[:, None, :])
        return waves * (np.clip(within, 0, None) * SIDE / share[:, None])[:, None, :]

    return along(CROP[:, 0], CROP[:, 1]), along(CROP[:, 2], CROP[:, 3])


DOWN, ACROSS = _cosines()


def opened(content: bytes) -> Image.Image:
    """A picture in colours.

    Raises:
        ValueError: Pillow cannot read all of it, or it is of a format we do not read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly everything on broken files
        raise ValueError(f"no picture that can be opened: {error}") from error


def hashes(shown: Image.Image) -> NDArray[np.uint64]:
    """[HASHES]: of the picture and its crops, and of these mirrored; number n is of crop n % len(CROP)."""
    grey = np.asarray(shown.convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS), dtype=np.float64)
    low = DOWN @ grey @ ACROSS.transpose(0, 2, 1)
    # To mirror a picture turns the sign of its odd waves across.
    low = np.concatenate([low, low * (-1.0) ** np.arange(LOW)]).reshape(HASHES, LOW * LOW)
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    made = bits.view(">u8").ravel().astype(np.uint64)
    # Whole pictures as every picture's hash is made, but for JPEG, of which less is decoded there; the same bytes need no hash.
    made[0] = phash(shown)
    made[len(CROP)] = phash(shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return made


def shows_something(shown: Image.Image) -> bool:
    """Whether a picture has contrast above `FLAT` in some colour; all pictures without any have one and the same hash."""
    return bool((reduced(shown, SHOWN).std((1, 2)) > FLAT).any())


@dataclass(frozen=True)
class Comparison:
    """What pairs of pictures have in common, [pairs] each, laid over each other as well as was found."""

    likeness: Floats
    """Correlation of their colours, -1 to 1: 1 if one is the other, be it brighter or paler; 0 if either is below `FLAT`."""
    patch: Floats
    """How far a colour differs in the patch in which one differs most, in levels; each colour's brightness, and the contrast of
    all, evened out."""
    tone: Floats
    """How far the means over all their colours differ, in levels of 0 to 255."""


def reduced(shown: Image.Image, side: int) -> NDArray[np.float32]:
    """[3, side, side]: a picture as it is compared, `SHOWN` for a suspect, `BASE` for what it may be a copy of."""
    resized = np.asarray(shown.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def compared(copies: Floats, wholes: Floats, which: NDArray[np.int64]) -> Comparison:
    """Each of `copies` [pairs, 3, SHOWN, SHOWN] with the picture of its number [pairs, 3, BASE, BASE].

    which: [pairs], of which of its `hashes` the copy's hash is near. It is compared with that crop, and with the one that
    `_laid` comes to from there; the likelier of the two counts.
    """
    mirrored = which >= len(CROP)
    wholes = np.where(mirrored[:, None, None, None], wholes[..., ::-1], wholes)
    crop = CROP[which % len(CROP)].copy()
    crop[mirrored, 2] = 1 - crop[mirrored, 2] - crop[mirrored, 3]
    first = _judged(_cut(wholes, crop, SHOWN), copies)
    laid = _judged(_cut(wholes, _laid(wholes.mean(1), copies.mean(1), crop), SHOWN), copies)
    better = laid.likeness > first.likeness
    return Comparison(
        np.where(better, laid.likeness, first.likeness),
        np.where(better, laid.patch, first.patch),
        np.where(better, laid.tone, first.tone),
    )


def _cut(wholes: Floats, crop: Floats, side: int) -> Floats:
    """[pairs, …, side, side]: the crops [pairs, 4] of square `wholes` [pairs, …, n, n], between pixels linear."""
    size = wholes.shape[-1]

    def between(start: Floats, share: Floats) -> Floats:
        """[pairs, side, size]: how much of each pixel there is in each of the crop's."""
        steps = (np.arange(side) + 0.5) / side
        at = np.clip((start[:, None] + share[:, None] * steps) * size - 0.5, 0, size - 1)
        return np.clip(1 - np.abs(at[..., None] - np.arange(size)), 0, None).astype(np.float32)

    down, across = between(crop[:, 0], crop[:, 1]), between(crop[:, 2], crop[:, 3]).transpose(0, 2, 1)
    if wholes.ndim == 4:
        down, across = down[:, None], across[:, None]
    return down @ wholes @ across


def _laid(wholes: Floats, copies: Floats, crop: Floats) -> Floats:
    """The crops [pairs, 4] of the grey `wholes` [pairs, BASE, BASE], moved towards what shows `copies` [pairs, SHOWN, SHOWN].

    Gauss-Newton, brightness and contrast free (Lucas and Kanade, 1981; Baker and Matthews, 2004), first on pictures of half the
    size, whose slopes reach further. Thin lines on a white ground are lost now and then; so the crop it began with counts too.
    """
    for whole, wanted, rounds in ((_halved(wholes), _halved(copies), ROUNDS[0]), (wholes, copies, ROUNDS[1])):
        for _ in range(rounds):
            crop = _moved(whole, wanted, crop)
    return crop


def _halved(grey: Floats) -> Floats:
    return (grey[:, ::2, ::2] + grey[:, 1::2, ::2] + grey[:, ::2, 1::2] + grey[:, 1::2, 1::2]) / 4


def _moved(wholes: Floats, wanted: Floats, crop: Floats) -> Floats:
    """One step of `crop` towards what shows `wanted`."""
    side = wanted.shape[-1]
    steps = ((np.arange(side) + 0.5) / side).astype(np.float32)
    cut = _cut(wholes, crop, side)
    down = np.gradient(cut, axis=1) * (side / crop[:, 1]).astype(np.float32)[:, None, None]
    across = np.gradient(cut, axis=2) * (side / crop[:, 3]).astype(np.float32)[:, None, None]
    slopes = [down, down * steps[None, :, None], across, across * steps[None, None, :], cut, np.ones_like(cut)]
    system = np.stack(slopes, 1).reshape(len(cut), len(slopes), -1)
    normal = (system @ system.transpose(0, 2, 1)).astype(np.float64)
    # A little stiffness: where nothing changes along an axis, nothing moves along it.
    diagonal = np.arange(len(slopes))
    normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * 1.01 + 1
    solved = np.linalg.solve(normal, (system @ wanted.reshape(len(cut), -1, 1)).astype(np.float64))[..., 0]
    contrast = np.maximum(solved[:, 4:5], 0.2)
    return crop + np.clip(solved[:, :4] / contrast, -LONGEST_STEP, LONGEST_STEP)


def _judged(first: Floats, second: Floats) -> Comparison:
    """Two pictures [pairs, 3, SHOWN, SHOWN] that lie over each other."""
    axes = (1, 2, 3)
    a, b = first - first.mean((2, 3), keepdims=True), second - second.mean((2, 3), keepdims=True)
    shared, of_a, of_b = (a * b).mean(axes), (a * a).mean(axes), (b * b).mean(axes)
    shows = np.minimum(of_a, of_b) > FLAT**2
    likeness = np.where(shows, shared / np.sqrt(np.maximum(of_a * of_b, FLAT**4)), 0.0)
    left = b - (shared / np.maximum(of_a, FLAT**2))[:, None, None, None] * a
    patches = PATCH @ left @ PATCH.T
    return Comparison(likeness, np.abs(patches).max(axes), np.abs((second - first).mean(axes)))
