"""Signs of the road: an arrow, and a traffic light."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GROUNDS, TINTS, Box, around, canvas
from stages.collection.scene import Ask, Coins, Said, Scene, a, other, yes_no

DIRECTIONS = ("up", "down", "left", "right")
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
LAMPS = ("red", "yellow", "green")
LAMP_PLACES = ("top", "middle", "bottom")
MEANS = {"red": "stop", "yellow": "wait", "green": "go"}
NEXT = {"red": "green", "green": "yellow", "yellow": "red"}


@dataclass(frozen=True, slots=True)
class Arrow(Scene):
    """A big arrow."""

    direction: str
    colour: str
    ground: str
    tint: int
    x: int
    y: int

    family: ClassVar[str] = "arrows"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        return cls(
            draw.choice(DIRECTIONS),
            draw.choice(tuple(COLOURS)),
            draw.choice(("black", "grey")),
            draw.randint(0, TINTS),
            draw.choice((40, 56)),
            draw.choice((40, 56)),
        )

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.ground], self.tint)
        upward = [(0, -36), (28, -4), (11, -4), (11, 36), (-11, 36), (-11, -4), (-28, -4)]
        turned = {
            "up": upward,
            "down": [(x, -y) for x, y in upward],
            "left": [(y, x) for x, y in upward],
            "right": [(-y, x) for x, y in upward],
        }[self.direction]
        pen.polygon([(self.x + x, self.y + y) for x, y in turned], fill=COLOURS[self.colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("arrows+check")
        return [
            Ask("arrows+direction", self.direction, options=DIRECTIONS),
            Ask("arrows+opposite", OPPOSITE[self.direction], among=DIRECTIONS),
            Ask("arrows+colour", self.colour, among=tuple(COLOURS)),
            Ask("arrows+check", yes_no(yes), self.judge(draw, yes)),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Does it point there?"""
        return f"Does the arrow point {self.direction if yes else other(draw, DIRECTIONS, self.direction)}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"{a(self.colour).capitalize()} arrow pointing {self.direction}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a big {self.colour} arrow on a {self.ground} background. "
            f"The arrow points {self.direction}, away from what lies {OPPOSITE[self.direction]}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me which way to go?", f"The arrow tells you to go {self.direction}."),
            Said("What does the sign look like?", f"The sign is a big {self.colour} arrow on a {self.ground} background."),
            Said("And where did I come from?", f"You came from the other way, so you moved {self.direction} from there."),
        ]

    def ponder(self) -> Said:
        """The way back."""
        return Said(
            "If I follow the sign and want to come back later, which way must I go, and why?",
            f"The {self.colour} arrow points {self.direction}. To come back you must go {OPPOSITE[self.direction]}.",
        )


@dataclass(frozen=True, slots=True)
class Light(Scene):
    """A traffic light with one lamp lit."""

    lamp: str
    x: int
    tint: int
    sky: str

    family: ClassVar[str] = "lights"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        return cls(draw.choice(LAMPS), draw.choice((32, 48, 64)), draw.randint(0, TINTS), draw.choice(("white", "grey")))

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS[self.sky], self.tint)
        pen.rounded_rectangle(self.box.edges, radius=8, fill=(30, 30, 34))
        for lamp, y in zip(LAMPS, (20, 48, 76), strict=True):
            lit = COLOURS[lamp] if lamp == self.lamp else (75, 75, 80)
            pen.ellipse(around(self.x, y, 25).edges, fill=lit)
        return image

    @property
    def box(self) -> Box:
        """The whole light."""
        return Box(self.x - 19, 4, self.x + 19, 92)

    @property
    def place(self) -> str:
        """Where the lit lamp is."""
        return LAMP_PLACES[LAMPS.index(self.lamp)]

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("lights+check")
        return [
            Ask("lights+lamp", self.lamp, among=LAMPS),
            Ask("lights+place", self.place, among=LAMP_PLACES),
            Ask("lights+next", NEXT[self.lamp], options=LAMPS),
            Ask("lights+check", yes_no(yes), self.judge(draw, yes)),
            Ask("lights+why", f"The {self.lamp} lamp is lit, so cars must {MEANS[self.lamp]}."),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Does it tell cars to do that?"""
        means = MEANS[self.lamp] if yes else other(draw, tuple(MEANS.values()), MEANS[self.lamp])
        return f"Does the light tell cars to {means}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"A traffic light with the {self.lamp} lamp lit."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a traffic light with three lamps. The {self.lamp} lamp at the {self.place} is lit, "
            f"and the other two are dark. It tells cars to {MEANS[self.lamp]}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me what the traffic light says?", f"The traffic light says {MEANS[self.lamp]}."),
            Said("Which lamp is shining?", f"The {self.lamp} lamp at the {self.place} is shining."),
            Said("And what will it show after that?", f"After that it will show {NEXT[self.lamp]}."),
        ]

    def ponder(self) -> Said:
        """What a driver does now."""
        return Said(
            "I am driving towards this light. What should I do, and why?",
            f"The {self.lamp} lamp is shining, which means {MEANS[self.lamp]}. So you should {MEANS[self.lamp]} now.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """The light."""
        return [("the traffic light", self.box)]
