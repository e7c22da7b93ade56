"""Things to count: equal shapes, and the pips of two dice."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GRID, GROUNDS, SHAPES, TINTS, Box, around, canvas, shape
from stages.collection.scene import Ask, Coins, Said, Scene, a, options_with, other, plural, yes_no

NUMBERS = ("1", "2", "3", "4", "5")
PIPS = ("1", "2", "3", "4", "5", "6")
HIGHER = ("left", "right", "neither")
SPOTS = {  # pips of a die, in quarters of its side
    1: [(2, 2)],
    2: [(1, 1), (3, 3)],
    3: [(1, 1), (2, 2), (3, 3)],
    4: [(1, 1), (1, 3), (3, 1), (3, 3)],
    5: [(1, 1), (1, 3), (2, 2), (3, 1), (3, 3)],
    6: [(1, 1), (1, 2), (1, 3), (3, 1), (3, 2), (3, 3)],
}


@dataclass(frozen=True, slots=True)
class Flock(Scene):
    """One to five equal shapes, strewn."""

    shape: str
    colour: str
    boxes: tuple[Box, ...]
    ground: str
    tint: int

    family: ClassVar[str] = "counting"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        cells = draw.sample([(x, y) for x in GRID for y in GRID], draw.randint(1, 5))
        return cls(
            draw.choice(SHAPES),
            draw.choice(tuple(COLOURS)),
            tuple(around(x, y, 28) for x, y in sorted(cells)),
            draw.choice(("black", "grey")),
            draw.randint(0, TINTS),
        )

    @property
    def count(self) -> int:
        """How many."""
        return len(self.boxes)

    @property
    def name(self) -> str:
        """`red circle`."""
        return f"{self.colour} {self.shape}"

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.ground], self.tint)
        for box in self.boxes:
            shape(pen, self.shape, box, COLOURS[self.colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("counting+check")
        return [
            Ask("counting+number", str(self.count), among=NUMBERS),
            Ask("counting+shape", self.shape, options=options_with(draw, self.shape, SHAPES, 3), among=SHAPES),
            Ask("counting+colour", self.colour, among=tuple(COLOURS)),
            Ask("counting+check", yes_no(yes), self.judge(draw, yes)),
            Ask("counting+sentence", self.sentence),
        ]

    @property
    def sentence(self) -> str:
        """The count as a whole sentence."""
        verb = "is" if self.count == 1 else "are"
        return f"There {verb} {plural(self.count, self.name)} in the image."

    def judge(self, draw: Random, yes: bool) -> str:
        """Are there that many?"""
        count = self.count if yes else other(draw, range(1, 6), self.count)
        return f"Is the number of shapes in the image {count}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"{plural(self.count, self.name)} on {self.ground}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        all_of_it = "it is" if self.count == 1 else "they are all"
        return (
            f"The picture shows {plural(self.count, self.shape)} on a {self.ground} background. "
            f"If you look closely, {all_of_it} {self.colour}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you count the shapes for me?", f"I count {plural(self.count, self.shape)} in the picture."),
            Said("What do they look like?", f"You see {a(self.name)} each time."),
            Said("What if somebody added one more?", f"With one more there would be {self.count + 1} of them."),
        ]

    def ponder(self) -> Said:
        """One taken away."""
        left = self.count - 1
        return Said(
            "If I took one shape away, how many would stay, and why?",
            f"There are {self.count} in the picture now. Taking one away from {self.count} would leave {left}.",
        )


@dataclass(frozen=True, slots=True)
class Dice(Scene):
    """Two dice side by side."""

    left: int
    right: int
    colours: tuple[str, str]
    tint: int
    boxes: tuple[Box, Box]

    family: ClassVar[str] = "dice"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        one, two = draw.sample(("red", "green", "blue", "purple"), 2)
        boxes = [around(x, draw.choice((32, 48, 64)), 44) for x in (24, 72)]
        left = draw.randint(1, 6)
        right = left if draw.random() < 0.2 else draw.randint(1, 6)
        return cls(left, right, (one, two), draw.randint(0, TINTS), (boxes[0], boxes[1]))

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS["grey"], self.tint)
        for value, colour, box in zip((self.left, self.right), self.colours, self.boxes, strict=True):
            pen.rounded_rectangle(box.edges, radius=7, fill=COLOURS[colour])
            for x, y in SPOTS[value]:
                middle = around(box.left + x * 11, box.top + y * 11, 10)
                pen.ellipse(middle.edges, fill=(255, 255, 255))
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("dice+check")
        side = draw.choice(("left", "right"))
        return [
            Ask("dice+value", str(self.left if side == "left" else self.right), f"Die: {side}", among=PIPS),
            Ask("dice+higher", self.higher, options=HIGHER),
            Ask("dice+check", yes_no(yes), self.judge(draw, yes)),
            Ask("dice+total", str(self.left + self.right), among=tuple(str(n) for n in range(2, 13))),
        ]

    @property
    def higher(self) -> str:
        """The side that shows more."""
        return "neither" if self.left == self.right else "left" if self.left > self.right else "right"

    def judge(self, draw: Random, yes: bool) -> str:
        """Does that die show that number?"""
        side = draw.choice(("left", "right"))
        value = self.left if side == "left" else self.right
        return f"Does the {side} die show a {value if yes else other(draw, range(1, 7), value)}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"Two dice, {self.left} on the left and {self.right} on the right."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows two dice on a grey table. The {self.colours[0]} one on the left shows {self.left}, "
            f"and the {self.colours[1]} one on the right shows {self.right}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you read the dice for me?", f"The left die shows {self.left} and the right die shows {self.right}."),
            Said("Which colours do the dice have?", f"One die is {self.colours[0]} and the other is {self.colours[1]}."),
            Said("What do they make together?", f"Together the dice make {self.left + self.right} points."),
        ]

    def ponder(self) -> Said:
        """Who would win."""
        end = "nobody wins" if self.higher == "neither" else f"the player on the {self.higher} wins"
        return Said(
            "If each die belongs to a player and more points win, who wins, and why?",
            f"The left die shows {self.left} and the right die shows {self.right}. So {end}.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """Both dice."""
        return [(f"the {colour} die", box) for colour, box in zip(self.colours, self.boxes, strict=True)]
