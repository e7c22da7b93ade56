"""Pictures: a square canvas, large plain shapes on it, words, and the bytes of a PNG.

Everything is drawn at 96 x 96 and must still be told apart at 48 x 48, the size at which the tiny model sees it.
"""

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE = 96
"""Width and height of every picture, in pixels."""

COLOURS = {
    "red": (240, 40, 45),
    "green": (35, 200, 75),
    "blue": (70, 120, 255),
    "yellow": (255, 220, 40),
    "purple": (190, 75, 230),
    "orange": (255, 140, 30),
}
TINTS = 24
"""How far grounds differ: two scenes of the same facts are hardly ever the same picture."""
GRID = (16, 48, 80)
"""Where small things have their middles, across and down.

Things lie on this grid, whose cells are whole patches of the tiny model. From noise, and in minutes, it learns shapes that are
always cut into patches alike; where each was shifted by some pixels, it told six shapes apart no better than by chance.
"""
GROUNDS = {"white": (250, 250, 250), "black": (12, 12, 16), "grey": (80, 84, 88)}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """Where something lies on the canvas, in pixels; `str` gives it as the formats want it, normalised to 0-1."""

    left: int
    top: int
    right: int
    bottom: int

    def __str__(self) -> str:
        return "[" + ", ".join(f"{edge / SIDE:.2f}" for edge in self.edges) + "]"

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


def around(x: int, y: int, side: int) -> Box:
    """The square box of width `side` whose middle is (x, y)."""
    return Box(x - side // 2, y - side // 2, x - side // 2 + side, y - side // 2 + side)


def canvas(colour: Colour, tint: int = 0) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture of one colour, `tint` nearer to middle grey, and the pen for it."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(part + tint if part < 128 else part - tint for part in colour))
    return image, ImageDraw.Draw(image)


def shape(pen: ImageDraw.ImageDraw, name: str, box: Box, colour: Colour) -> None:
    """Draw one of `SHAPES` so that it fills `box`."""
    left, top, right, bottom = box.edges
    side = right - left
    if name == "circle":
        pen.ellipse(box.edges, fill=colour)
    elif name == "ring":
        pen.ellipse(box.edges, outline=colour, width=max(4, side // 5))
    elif name == "square":
        pen.rectangle(box.edges, fill=colour)
    elif name == "triangle":
        pen.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)
    elif name == "cross":
        third = side / 3
        pen.rectangle((left + third, top, right - third, bottom), fill=colour)
        pen.rectangle((left, top + third, right, bottom - third), fill=colour)
    else:
        assert name == "star", f"no such shape: {name}"
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        points = []
        for tip in range(10):
            radius = side / 2 * (1.05 if tip % 2 == 0 else 0.45)
            angle = math.pi * tip / 5
            points.append((middle_x + radius * math.sin(angle), middle_y - radius * math.cos(angle)))
        pen.polygon(points, fill=colour)


def words(pen: ImageDraw.ImageDraw, text: str, middle: tuple[int, int], size: int, colour: Colour) -> None:
    """Write `text` around `middle` in Pillow's own font, thickened so that it survives the small size."""
    pen.text(middle, text, fill=colour, font=_font(size), anchor="mm", stroke_width=max(1, size // 24), stroke_fill=colour)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "this Pillow was built without FreeType, which the wheels have"
    return font


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes: the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)  # 6, the default, takes nearly twice as long to save 4 %
    return buffer.getvalue()
