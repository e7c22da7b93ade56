"""Plain shapes: one of them, and two of them side by side or one above the other."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GRID, GROUNDS, SHAPES, TINTS, Box, around, canvas, shape
from stages.collection.scene import Ask, Coins, Said, Scene, a, options_with, other, yes_no

SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom")
FACING = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
RELATIONS = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}


@dataclass(frozen=True, slots=True)
class Single(Scene):
    """One shape, small or large, anywhere on a plain ground."""

    shape: str
    colour: str
    size: str
    ground: str
    tint: int
    box: Box

    family: ClassVar[str] = "shapes"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        size = draw.choice(SIZES)
        side, middles = (28, GRID) if size == "small" else (60, (40, 56))
        return cls(
            draw.choice(SHAPES),
            draw.choice(tuple(COLOURS)),
            size,
            draw.choice(("black", "grey")),
            draw.randint(0, TINTS),
            around(draw.choice(middles), draw.choice(middles), side),
        )

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.ground], self.tint)
        shape(pen, self.shape, self.box, COLOURS[self.colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("shapes+check")
        return [
            Ask("shapes+name", self.shape, options=options_with(draw, self.shape, SHAPES, 3), among=SHAPES),
            Ask("shapes+colour", self.colour, among=tuple(COLOURS)),
            Ask("shapes+size", self.size, options=SIZES),
            Ask("shapes+check", yes_no(yes), self.judge(draw, yes)),
            Ask("shapes+box", str(self.box)),
            Ask("shapes+describe", self.caption()),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is it this shape of this colour? Where it is not, one of the two still fits."""
        name, colour = self.shape, self.colour
        if not yes and draw.random() < 0.5:
            name = other(draw, SHAPES, name)
        elif not yes:
            colour = other(draw, tuple(COLOURS), colour)
        return f"Is there {a(f'{colour} {name}')} in the image?"

    def judge_colour(self, draw: Random, yes: bool) -> str:
        """Is the shape of this colour?"""
        return f"Is the {self.shape} {self.colour if yes else other(draw, tuple(COLOURS), self.colour)}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"A {self.size} {self.colour} {self.shape} on {self.ground}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows one shape, {a(self.colour)} {self.shape}. "
            f"The {self.shape} is {self.size}, and the background behind it is {self.ground}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me what is drawn here?", f"Somebody drew {a(self.colour)} {self.shape} here."),
            Said("How big does it look to you?", f"The {self.shape} looks {self.size} to me."),
            Said("And what lies behind it?", f"Behind the {self.shape} lies a plain {self.ground} background."),
        ]

    def ponder(self) -> Said:
        """What the size says."""
        room = "plenty of room is left" if self.size == "small" else "little room is left"
        return Said(
            "Is there room for more shapes here, and why?",
            f"The {self.colour} {self.shape} is {self.size}. So {room} for more shapes around it.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """The shape."""
        return [(f"the {self.colour} {self.shape}", self.box)]


@dataclass(frozen=True, slots=True)
class Pair(Scene):
    """Two shapes of different form and colour, one at each of two facing places."""

    shapes: tuple[str, str]
    colours: tuple[str, str]
    places: tuple[str, str]
    ground: str
    tint: int
    boxes: tuple[Box, Box]

    family: ClassVar[str] = "space"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        first, second = draw.sample(SHAPES, 2)
        one, two = draw.sample(tuple(COLOURS), 2)
        place = draw.choice(PLACES)
        boxes = []
        for side in (place, FACING[place]):
            x, y = draw.choice(GRID), draw.choice(GRID)
            if side in ("left", "right"):
                x = GRID[0] if side == "left" else GRID[2]
            else:
                y = GRID[0] if side == "top" else GRID[2]
            boxes.append(around(x, y, 30))
        return cls(
            (first, second),
            (one, two),
            (place, FACING[place]),
            draw.choice(("black", "grey")),
            draw.randint(0, TINTS),
            (boxes[0], boxes[1]),
        )

    def name(self, number: int) -> str:
        """`red circle`."""
        return f"{self.colours[number]} {self.shapes[number]}"

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.ground], self.tint)
        for form, colour, box in zip(self.shapes, self.colours, self.boxes, strict=True):
            shape(pen, form, box, COLOURS[colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("space+relation")
        at, where, asked, located = (draw.randrange(2) for _ in range(4))
        return [
            Ask("space+at", self.shapes[at], f"Side: {self.places[at]}", among=SHAPES),
            Ask("space+where", self.places[where], f"Shape: {self.shapes[where]}", among=PLACES),
            Ask("space+colour", self.colours[asked], f"Shape: {self.shapes[asked]}", among=tuple(COLOURS)),
            Ask("space+relation", yes_no(yes), self.judge(draw, yes)),
            Ask("space+locate", str(self.boxes[located]), f"Object: {self.name(located)}"),
            Ask("space+describe", self.caption()),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Does the one stand so to the other? Where it does not, it stands the other way round."""
        first = draw.randrange(2)
        place = self.places[first] if yes else self.places[1 - first]
        return f"Is the {self.shapes[first]} {RELATIONS[place]} the {self.shapes[1 - first]}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"{a(self.name(0)).capitalize()} {RELATIONS[self.places[0]]} {a(self.name(1))}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        where = "next to each other" if self.places[0] in ("left", "right") else "one above the other"
        return (
            f"The picture shows two shapes {where} on a {self.ground} background. "
            f"{a(self.name(0)).capitalize()} is at the {self.places[0]}, "
            f"and {a(self.name(1))} is at the {self.places[1]}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me which shapes are here?", f"I see {a(self.name(0))} and {a(self.name(1))} here."),
            Said(f"Where would I find the {self.shapes[0]}?", f"You would find the {self.name(0)} at the {self.places[0]}."),
            Said(f"And what about the {self.shapes[1]}?", f"The {self.name(1)} is at the {self.places[1]}, across from it."),
        ]

    def ponder(self) -> Said:
        """What moving one of them would change."""
        return Said(
            f"What would change if the {self.shapes[0]} and the {self.shapes[1]} changed places?",
            f"Now the {self.name(0)} is at the {self.places[0]}. "
            f"After the change it would be at the {self.places[1]}, and the {self.name(1)} at the {self.places[0]}.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """Both shapes."""
        return [(f"the {self.name(number)}", self.boxes[number]) for number in range(2)]
