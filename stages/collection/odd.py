"""Odd one out: four shapes, three of them alike."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GROUNDS, SHAPES, TINTS, Box, around, canvas, shape
from stages.collection.scene import Ask, Coins, Said, Scene, a, other, plural, yes_no

CORNERS = ("top left", "top right", "bottom left", "bottom right")
MIDDLES = ((24, 24), (72, 24), (24, 72), (72, 72))
FEATURES = ("colour", "shape")


@dataclass(frozen=True, slots=True)
class Odd(Scene):
    """Four shapes; one differs from the others in its colour or in its form."""

    shape: str
    colour: str
    feature: str
    odd_value: str
    corner: str
    boxes: tuple[Box, Box, Box, Box]
    ground: str
    tint: int

    family: ClassVar[str] = "odd"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        form, colour, feature = draw.choice(SHAPES), draw.choice(tuple(COLOURS)), draw.choice(FEATURES)
        odd_value = other(draw, tuple(COLOURS), colour) if feature == "colour" else other(draw, SHAPES, form)
        one, two, three, four = (around(x, y, 40) for x, y in MIDDLES)
        ground = draw.choice(("black", "grey"))
        return cls(
            form, colour, feature, odd_value, draw.choice(CORNERS), (one, two, three, four), ground, draw.randint(0, TINTS)
        )

    @property
    def name(self) -> str:
        """What three of them are."""
        return f"{self.colour} {self.shape}"

    @property
    def odd_name(self) -> str:
        """What the odd one is."""
        return f"{self.odd_value} {self.shape}" if self.feature == "colour" else f"{self.colour} {self.odd_value}"

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.ground], self.tint)
        for corner, box in zip(CORNERS, self.boxes, strict=True):
            colour, form = (self.odd_name if corner == self.corner else self.name).split()
            shape(pen, form, box, COLOURS[colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("odd+check")
        return [
            Ask("odd+where", self.corner, options=CORNERS),
            Ask("odd+feature", self.feature, options=FEATURES),
            Ask("odd+which", self.odd_name),
            Ask("odd+check", yes_no(yes), self.judge(draw, yes)),
            Ask("odd+why", self.reason),
        ]

    @property
    def reason(self) -> str:
        """Why the odd one is odd."""
        usual = self.colour if self.feature == "colour" else plural(2, self.shape)[2:]
        return f"The {self.odd_name} is the odd one, because the others are {usual}."

    def judge(self, draw: Random, yes: bool) -> str:
        """Is the odd one on that side?"""
        row, column = self.corner.split()
        side = draw.choice((row, column))
        if not yes:
            side = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[side]
        return f"Is the odd one at the {side}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"{plural(3, self.name)} and {a(self.odd_name)} at the {self.corner}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows four shapes on a {self.ground} background. Three of them are the same {self.name}, "
            f"but the one at the {self.corner} is {a(self.odd_name)}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me what most of these are?", f"Three of them are the same {self.name}."),
            Said("Does one of them not belong?", f"The {self.odd_name} does not belong to the others."),
            Said("And where do I find that one?", f"You find the {self.odd_name} at the {self.corner}."),
        ]

    def ponder(self) -> Said:
        """How to make all four alike."""
        value = self.colour if self.feature == "colour" else self.shape
        return Said(
            "How could somebody make all four of them the same?",
            f"Three of them are the same {self.name}, but one is {a(self.odd_name)}. "
            f"So the {self.feature} of that one must become {value}.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """The odd one."""
        return [(f"the {self.odd_name}", self.boxes[CORNERS.index(self.corner)])]
