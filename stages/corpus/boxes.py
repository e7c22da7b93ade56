"""Boxes in texts: `[x1, y1, x2, y2]`, corners as shares of the picture's width and height, 0 to 1."""

import math
import re
from typing import NamedTuple

BRACKETS = re.compile(r"\[([^\[\]]*\d[^\[\]]*)\]")
"""What may be a box: brackets around something with a digit."""
NUMBER = r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*"
BOX = re.compile(",".join([NUMBER] * 4))


class Box(NamedTuple):
    """Two corners, the upper left one first."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def within(self) -> bool:
        """Whether both corners lie in the picture."""
        return all(0 <= side <= 1 for side in self)

    @property
    def ordered(self) -> bool:
        """Whether the upper left corner is given first; a box rounded to a line or a point still is one."""
        return self.x1 <= self.x2 and self.y1 <= self.y2


def parsed(inside: str) -> Box | None:
    """What stands between two brackets as a box, wherever it lies; None if it is not four plain numbers."""
    found = BOX.fullmatch(inside)
    sides = [float(side) for side in found.groups()] if found else []
    # A number of four hundred digits is infinite.
    return Box(*sides) if sides and all(map(math.isfinite, sides)) else None


def padded(text: str, width: int, height: int) -> str:
    """`text` with its boxes as they lie once the picture of that size is padded to a square, itself in the middle.

    As SVIT's own tool counts: in whole pixels, so that boxes move by up to half a pixel even in a picture that is square
    already. What is no box stays as it is. Each box is moved by itself; the tool replaces text, and so moves a box twice
    where its new place is the old place of a later one.
    """
    side = max(width, height)
    right, down = (side - width) // 2, (side - height) // 2

    def moved(found: re.Match[str]) -> str:
        box = parsed(found[1])
        if box is None:
            return found[0]
        x1, x2 = (round((round(x * width) + right) / side, 3) for x in (box.x1, box.x2))
        y1, y2 = (round((round(y * height) + down) / side, 3) for y in (box.y1, box.y2))
        return f"[{x1}, {y1}, {x2}, {y2}]"

    return BRACKETS.sub(moved, text)
