"""What a picture's bytes hold: its size, whether all of the picture is there, and a hash alike for pictures that look alike."""

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats a picture may have. Pillow knows more, and some of those start other programs to draw them."""
MAX_SIDE = 8192
"""Pixels a side of a picture may have where the model is served; so the contract may allow no more."""
JPEG = b"\xff\xd8\xff"
"""How one begins."""
DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression")
"""How libjpeg's remarks begin on pictures of which something is lost. Of others, which it only cannot draw, Pillow decides."""
GREYABLE = ("YCbCr", "Gray", "RGB")
"""The colours of a JPEG of which libjpeg makes grey; of inks (CMYK, YCCK) Pillow does."""
SHORT = 60
"""Pixels of the shorter side below which a JPEG is not scaled down before its hash is taken."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a picture found; `whole` is None where its size forbids to decode it."""

    whole: bool | None
    width: int | None
    height: int | None
    phash: int | None
    """64 bits, alike for pictures that look alike (`phash`); None unless the picture is whole."""


@dataclass(frozen=True, slots=True)
class _Unhashed:
    """A whole JPEG, and an eighth of it in grey, of which the hash is still to be taken."""

    width: int
    height: int
    grey: np.ndarray


def look(content: bytes, max_side: int) -> Look:
    """Decode `content` to its last pixel, unless a side is over `max_side` (a bomb is known by its header).

    Safe in several threads at once; decoders let the others run meanwhile. Width and height are the file's own, as Pillow's
    `Image.size`: a turn that EXIF asks for is not made. Of several frames or pages the first is looked at.
    """
    return looks([content], max_side)[0]


def looks(contents: Sequence[bytes], max_side: int) -> list[Look]:
    """As `look` of each, in their order; their hashes are taken together, for a call of NumPy costs more than its sums do."""
    found = [_look_unhashed(content, max_side) for content in contents]
    hashes = iter(_signs([_frequencies(one.grey) for one in found if isinstance(one, _Unhashed)]))
    return [one if isinstance(one, Look) else Look(True, one.width, one.height, next(hashes)) for one in found]


def _look_unhashed(content: bytes, max_side: int) -> Look | _Unhashed:
    found = _look_at_jpeg(content, max_side) if content.startswith(JPEG) else None
    return _look_by_pillow(content, max_side) if found is None else found


def _look_at_jpeg(content: bytes, max_side: int) -> Look | _Unhashed | None:
    """As `look`, by libjpeg at an eighth of the size, for which it reads every code there is; None where Pillow must decide.

    Pillow passes over what libjpeg remarks, and so draws a picture of which 2 KB are zero; here a remark counts (`strict`).
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if max(width, height) > max_side:
            return Look(None, width, height, None)
        least = SHORT if min(width, height) >= 8 * SHORT else 0
        grey = simplejpeg.decode_jpeg(content, "GRAY", min_width=least, min_height=least)
    except ValueError as error:
        return Look(False, None, None, None) if str(error).startswith(DAMAGE) else None
    if colours not in GREYABLE:
        return None
    grey = grey[:, :, 0]
    return _Unhashed(width, height, grey) if least else Look(True, width, height, phash(Image.fromarray(grey)))


def _look_by_pillow(content: bytes, max_side: int) -> Look:
    with _plainly():
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height, checksums = *image.size, image.format == "PNG"
            if max(width, height) > max_side:
                return Look(None, width, height, None)
            if checksums:
                # Decoding alone passes over PNG's checksums, so a flipped bit would pass as a picture.
                with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                    image.verify()
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                shown = image.convert("RGB")
        except Exception:
            # Pillow's decoders raise nearly everything on broken files: OSError, SyntaxError, struct.error, ValueError, …
            return Look(False, None, None, None)
    return Look(True, width, height, phash(shown))


class _Pillow:
    """Pillow's switches, which are the process's and not a thread's: how many look now, and what to restore after the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.looking = 0
        self.before: tuple[int | None, bool] = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        self.remarks = warnings.catch_warnings()

    def enter(self) -> None:
        with self.lock:
            if not self.looking:
                Image.init()
                assert set(FORMATS) <= Image.OPEN.keys(), "Pillow was built without one of the formats"
                self.before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
                self.remarks = warnings.catch_warnings()
                self.remarks.__enter__()
                warnings.simplefilter("ignore")
            self.looking += 1

    def leave(self) -> None:
        with self.lock:
            self.looking -= 1
            if not self.looking:
                self.remarks.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.before


_pillow = _Pillow()


@contextmanager
def _plainly() -> Iterator[None]:
    """Pillow without its own limit on size (`look` has one), without patience for cut-off files, and without remarks."""
    _pillow.enter()
    try:
        yield
    finally:
        _pillow.leave()


SIDE, LOW = 32, 8
"""Of the grey picture that is transformed, and of the low frequencies kept of it."""
COSINES = np.cos(math.pi * np.outer(np.arange(LOW), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
ONE = 2.0**17
"""What 1 is when it is a whole number. Floats add whole numbers exactly, in any order, as long as no sum is over 2^53. Else the
signs of what rounding leaves of nothing, in a picture of one colour or its own mirror image, would be chance."""


def phash(shown: Image.Image) -> int:
    """64 bits of a picture, of which few change when it is scaled or compressed again.

    The signs, against their median, of the 8 × 8 lowest frequencies of the picture in grey at 32 × 32 pixels, the highest bit
    first: what `imagehash.phash` gives (https://github.com/JohannesBuchner/imagehash), but where frequencies are equal.

    `look` takes it of a JPEG with sides of 480 pixels and more from an eighth of its size, where up to 4 of the 64 bits differ
    from those of the whole picture (none in nine of ten; 2,000 generated pictures of 640 × 480). So a copy of it as PNG, or
    scaled below 480, may lie some bits away. Smaller JPEGs and all other formats are hashed whole. Of equal bytes the hash is
    equal, on every machine.
    """
    grey = np.asarray(shown.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    return _signs([_frequencies(grey)])[0]


def _frequencies(grey: np.ndarray) -> np.ndarray:
    """[LOW, LOW]: the low frequencies of a small picture in grey, scaled and transformed in one step."""
    height, width = grey.shape
    return _cosines(height, SIDE) @ grey @ _cosines(width, SIDE).T


def _signs(low: Sequence[np.ndarray]) -> list[int]:
    """Of each [LOW, LOW] its signs against its median, as 64 bits."""
    flat = np.array(low).reshape(-1, LOW * LOW)
    ordered = np.sort(flat, axis=1)
    # Twice the median of an even number: whole still.
    twice = ordered[:, LOW * LOW // 2 - 1] + ordered[:, LOW * LOW // 2]
    return np.packbits(2 * flat > twice[:, None], axis=1).view(">u8").ravel().tolist()


@lru_cache(maxsize=2048)
def _cosines(size: int, scaled: int) -> np.ndarray:
    """[LOW, size]: the low frequencies of `size` pixels, after these are scaled to `scaled` as Pillow does by LANCZOS."""
    if size == scaled:
        return np.rint(ONE * COSINES)
    scale = size / scaled
    away = (np.arange(size) + 0.5 - scale * (np.arange(scaled)[:, None] + 0.5)) / max(scale, 1.0)
    weights = np.sinc(away) * np.sinc(away / 3) * (np.abs(away) < 3)
    cosines = np.rint(ONE * (COSINES @ (weights / weights.sum(axis=1, keepdims=True))))
    # Of one colour, every frequency but the lowest is nothing, and not what is left of rounding.
    cosines[1:, 0] -= cosines[1:].sum(axis=1)
    return cosines
