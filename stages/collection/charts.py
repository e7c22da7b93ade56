"""Charts and tables: coloured bars, and two rows of two numbers."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GROUNDS, Box, canvas, words
from stages.collection.scene import Ask, Coins, Said, Scene, other, shuffled, yes_no

LEVELS = (18, 38, 58, 78)
"""Heights a bar can have, in pixels; two bars never share one."""
CELLS = ("top left", "top right", "bottom left", "bottom right")
CELL_MIDDLES = ((26, 26), (70, 26), (26, 70), (70, 70))


@dataclass(frozen=True, slots=True)
class Bars(Scene):
    """A bar chart of two to four bars, each of another colour and height."""

    colours: tuple[str, ...]
    heights: tuple[int, ...]

    family: ClassVar[str] = "charts"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        count = draw.randint(2, 4)
        heights = (level + draw.randint(-4, 4) for level in draw.sample(LEVELS, count))
        return cls(tuple(draw.sample(tuple(COLOURS), count)), tuple(heights))

    def boxes(self) -> list[Box]:
        """The bars' boxes, from left to right."""
        step = 84 // len(self.colours)
        return [
            Box(10 + number * step, 90 - height, 10 + number * step + step - 6, 90)
            for number, height in enumerate(self.heights)
        ]

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS["white"])
        for box, colour in zip(self.boxes(), self.colours, strict=True):
            pen.rectangle(box.edges, fill=COLOURS[colour])
        pen.line((5, 4, 5, 91), fill=(0, 0, 0), width=2)
        pen.line((5, 91, 92, 91), fill=(0, 0, 0), width=2)
        return image

    @property
    def order(self) -> list[str]:
        """The colours from the tallest bar to the shortest."""
        return [colour for _, colour in sorted(zip(self.heights, self.colours, strict=True), reverse=True)]

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("charts+compare")
        return [
            Ask("charts+tallest", self.order[0], options=shuffled(draw, self.colours)),
            Ask("charts+shortest", self.order[-1], among=tuple(COLOURS)),
            Ask("charts+bars", str(len(self.colours)), among=("2", "3", "4")),
            Ask("charts+compare", yes_no(yes), self.judge(draw, yes)),
            Ask("charts+order", f"From tallest to shortest: {', '.join(self.order)}."),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is the one bar taller than the other?"""
        high, low = sorted(draw.sample(range(len(self.order)), 2))
        first, second = (high, low) if yes else (low, high)
        return f"Is the {self.order[first]} bar taller than the {self.order[second]} bar?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"A chart with {len(self.colours)} bars, from tallest to shortest: {', '.join(self.order)}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a bar chart with {len(self.colours)} bars on a white background. "
            f"From left to right they are {' and '.join(self.colours)}. "
            f"The {self.order[0]} bar is the tallest, and the {self.order[-1]} bar is the shortest."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me what kind of chart this is?", f"This is a bar chart with {len(self.colours)} bars."),
            Said("Which bar stands out?", f"The {self.order[0]} bar stands out, because it is the tallest."),
            Said("And which one is the smallest?", f"The {self.order[-1]} bar is the smallest of them."),
        ]

    def ponder(self) -> Said:
        """Who sold most."""
        return Said(
            "If each bar is a shop and shows what it sold, which shop did best, and why?",
            f"The {self.order[0]} bar is the tallest. So the {self.order[0]} shop sold the most, "
            f"and the {self.order[-1]} shop sold the least.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """The bars."""
        return [(f"the {colour} bar", box) for colour, box in zip(self.colours, self.boxes(), strict=True)]


@dataclass(frozen=True, slots=True)
class Table(Scene):
    """Two rows of two different numbers."""

    values: tuple[int, int, int, int]
    colour: str

    family: ClassVar[str] = "tables"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        one, two, three, four = draw.sample(range(1, 10), 4)
        return cls((one, two, three, four), draw.choice(("red", "green", "blue", "purple")))

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS["white"])
        pen.rectangle((3, 3, 92, 92), outline=COLOURS[self.colour], width=4)
        pen.line((48, 4, 48, 92), fill=COLOURS[self.colour], width=4)
        pen.line((4, 48, 92, 48), fill=COLOURS[self.colour], width=4)
        for value, middle in zip(self.values, CELL_MIDDLES, strict=True):
            words(pen, str(value), middle, 42, (0, 0, 0))
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("tables+contains")
        cell = draw.randrange(4)
        numbers = tuple(str(number) for number in range(1, 10))
        return [
            Ask("tables+cell", str(self.values[cell]), f"Cell: {CELLS[cell]}", among=numbers),
            Ask("tables+largest", str(max(self.values)), among=numbers),
            Ask("tables+lines", self.colour, among=("red", "green", "blue", "purple")),
            Ask("tables+contains", yes_no(yes), self.judge(draw, yes)),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is the number in the table?"""
        number = draw.choice(self.values) if yes else other(draw, range(1, 10), *self.values)
        return f"Is there a {number} in the table?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        one, two, three, four = self.values
        return f"A {self.colour} table: {one} {two} above {three} {four}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        one, two, three, four = self.values
        return (
            f"The picture shows a small table with {self.colour} lines. The top row holds {one} and {two}, "
            f"and the bottom row holds {three} and {four}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        one, two, three, four = self.values
        return [
            Said("Could you read the upper row to me?", f"In the top row I read {one} and {two}."),
            Said("And what about the lower row?", f"In the bottom row I read {three} and {four}."),
            Said("What are the lines like?", f"The lines of the table are {self.colour} on white."),
        ]

    def ponder(self) -> Said:
        """Which number is the largest, and where it stands."""
        largest = max(self.values)
        return Said(
            "If these numbers were prices, which one would cost me most, and why?",
            f"The largest number in the table is {largest}, at the {CELLS[self.values.index(largest)]}. "
            f"So the one for {largest} would cost you most.",
        )
