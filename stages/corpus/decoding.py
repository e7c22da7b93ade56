"""What a picture's bytes hold: its size, and whether all of the picture is there."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats a picture may have. Pillow knows more, and some of those start other programs to draw them."""
MAX_SIDE = 8192
"""Pixels a side of a picture may have where the model is served; so the contract may allow no more."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a picture found; `whole` is None where its size forbids to decode it."""

    whole: bool | None
    width: int | None
    height: int | None
    phash: int | None
    """64 bits, alike for pictures that look alike (`phash`); None unless the picture is whole."""


def look(content: bytes, max_side: int) -> Look:
    """Open `content` and decode it to the last pixel, unless a side is over `max_side` (a bomb is known by its header)."""
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


@contextmanager
def _plainly() -> Iterator[None]:
    """Pillow without its own limit on size (`look` has one), without patience for cut-off files, and without remarks."""
    Image.init()
    assert set(FORMATS) <= Image.OPEN.keys(), "Pillow was built without one of the formats"
    limit, patient = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, patient


SIDE, LOW = 32, 8
"""Of the grey picture that is transformed, and of the low frequencies kept of it."""
COSINES = np.cos(math.pi * np.outer(np.arange(LOW), 2 * np.arange(SIDE) + 1) / (2 * SIDE))


def phash(shown: Image.Image) -> int:
    """64 bits of a picture, of which few change when it is scaled or compressed again.

    The signs, against their median, of the 8 × 8 lowest frequencies of the picture in grey at 32 × 32 pixels; bit for bit
    what `imagehash.phash` gives (https://github.com/JohannesBuchner/imagehash), the highest bit first.
    """
    grey = np.asarray(shown.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low = COSINES @ grey @ COSINES.T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())
