"""Small landscapes: a sky by day or night with one thing in it, and two or three things on the ground."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image, ImageDraw

from stages.collection.drawing import COLOURS, Box, canvas
from stages.collection.scene import Ask, Coins, Said, Scene, a, other, yes_no

TIMES = ("day", "night")
SKY = {"sun": "day", "cloud": "day", "moon": "night"}
THEMES = {  # what stands together more often than chance, which the adversarial questions of POPE need
    "town": ("house", "car", "flag", "tree"),
    "park": ("tree", "ball", "flower", "house"),
    "lake": ("boat", "flag", "tree", "flower"),
}
GROUND_THINGS = ("house", "car", "flag", "tree", "ball", "flower", "boat")
THINGS = (*SKY, *GROUND_THINGS)
PLACES = ("left", "middle", "right")
PLACE_MIDDLES = {"left": 17, "middle": 48, "right": 79}
PAINTS = ("red", "blue", "yellow", "purple", "orange")
ADVICE = {
    "sun": "The sun is shining, so you should wear a hat.",
    "cloud": "There is a cloud, so you should take an umbrella.",
    "moon": "The moon is out, so you should take a lamp.",
}
HORIZON = 50


@dataclass(frozen=True, slots=True)
class Street(Scene):
    """A landscape; each thing occurs once, and each painted thing has its own colour."""

    sky: str
    sky_x: int
    things_at: tuple[tuple[str, str], ...]
    """(place, thing) from left to right."""
    colours: tuple[str, ...]

    family: ClassVar[str] = "street"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        places = sorted(draw.sample(PLACES, draw.choice((2, 3, 3))), key=PLACES.index)
        things = draw.sample(THEMES[draw.choice(tuple(THEMES))], len(places))
        colours = tuple(draw.sample(PAINTS, len(places)))
        return cls(draw.choice(tuple(SKY)), draw.randint(20, 76), tuple(zip(places, things, strict=True)), colours)

    @property
    def time(self) -> str:
        """Day or night."""
        return SKY[self.sky]

    @property
    def present(self) -> list[str]:
        """All that is there, the sky first."""
        return [self.sky, *(thing for _, thing in self.things_at)]

    def named(self, number: int) -> str:
        """`red car`; trees are always green, and so have no colour in their name."""
        thing = self.things_at[number][1]
        return thing if thing == "tree" else f"{self.colours[number]} {thing}"

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        day = self.time == "day"
        image, pen = canvas((150, 210, 250) if day else (15, 20, 60))
        pen.rectangle((0, HORIZON + 24, 96, 96), fill=(120, 200, 110) if day else (40, 80, 60))
        _sky(pen, self.sky, self.sky_x)
        for (place, thing), colour in zip(self.things_at, self.colours, strict=True):
            _thing(pen, thing, PLACE_MIDDLES[place], COLOURS[colour])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("street+existence")
        where = draw.randrange(len(self.things_at))
        asks = [
            Ask("street+existence", yes_no(yes), self.judge(draw, yes)),
            Ask("street+time", self.time, options=TIMES),
            Ask("street+where", self.things_at[where][0], f"Object: {self.things_at[where][1]}", among=PLACES),
            Ask("street+describe", self.caption()),
            Ask("street+advice", ADVICE[self.sky]),
        ]
        painted = [number for number, (_, thing) in enumerate(self.things_at) if thing != "tree"]
        number = draw.choice(painted)
        return [*asks, Ask("street+colour", self.colours[number], f"Object: {self.things_at[number][1]}", among=PAINTS)]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is it there?"""
        return exists(draw.choice(self.present) if yes else other(draw, THINGS, *self.present))

    def caption(self) -> str:
        """The scene in one short sentence."""
        names = [a(self.named(number)) for number in range(len(self.things_at))]
        return f"{self.time.capitalize()} with a {self.sky}, {', '.join(names[:-1])} and {names[-1]}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        where = " and ".join(f"{a(self.named(n))} at the {place}" for n, (place, _) in enumerate(self.things_at))
        return f"The picture shows a landscape by {self.time}, with a {self.sky} in the sky. On the ground I see {where}."

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        (first_place, first), (last_place, _) = self.things_at[0], self.things_at[-1]
        return [
            Said("Could you tell me when this was?", f"It was by {self.time}, because I see a {self.sky} in the sky."),
            Said(f"What stands at the {last_place}?", f"At the {last_place} stands {a(self.named(-1))}."),
            Said(f"And where would I find the {first}?", f"You would find the {first} at the {first_place}."),
        ]

    def ponder(self) -> Said:
        """What to take along."""
        reason, advice = ADVICE[self.sky].split(", so you should ")
        return Said(
            "I want to go for a walk here. What should I bring, and why?",
            f"{reason} in this landscape by {self.time}. So you should {advice.removesuffix('.')} for your walk.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """What stands on the ground."""
        return [
            (f"the {self.named(number)}", _extent(thing, PLACE_MIDDLES[place]))
            for number, (place, thing) in enumerate(self.things_at)
        ]


def exists(thing: str) -> str:
    """The question whether `thing` is there."""
    return f"Is there a {thing} in the image?"


def _sky(pen: ImageDraw.ImageDraw, thing: str, x: int) -> None:
    if thing == "sun":
        pen.ellipse((x - 13, 4, x + 13, 30), fill=COLOURS["yellow"])
    elif thing == "moon":
        pen.ellipse((x - 13, 4, x + 13, 30), fill=(245, 245, 230))
        pen.ellipse((x - 4, 2, x + 20, 26), fill=(15, 20, 60))
    else:
        for left, top, right, bottom in ((-19, 12, 3, 30), (-8, 5, 12, 27), (1, 12, 19, 30)):
            pen.ellipse((x + left, top, x + right, bottom), fill=(255, 255, 255))


def _extent(thing: str, x: int) -> Box:
    top = {"house": 44, "car": 64, "flag": 42, "tree": 40, "ball": 64, "flower": 52, "boat": 48}[thing]
    return Box(x - 14, top, x + 14, 90)


def _thing(pen: ImageDraw.ImageDraw, thing: str, x: int, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = _extent(thing, x).edges
    brown, dark, white = (110, 70, 35), (25, 25, 25), (250, 250, 250)
    if thing == "house":
        pen.rectangle((left, top + 18, right, bottom), fill=colour)
        pen.polygon([(left, top + 18), (right, top + 18), (x, top)], fill=brown)
        pen.rectangle((x - 4, bottom - 16, x + 4, bottom), fill=white)
    elif thing == "car":
        pen.rectangle((left, top + 9, right, bottom - 5), fill=colour)
        pen.rectangle((left + 6, top, right - 6, top + 10), fill=colour)
        pen.ellipse((left + 2, bottom - 10, left + 12, bottom), fill=dark)
        pen.ellipse((right - 12, bottom - 10, right - 2, bottom), fill=dark)
    elif thing == "flag":
        pen.rectangle((left, top, left + 4, bottom), fill=white)
        pen.rectangle((left + 4, top + 1, right, top + 19), fill=colour)
    elif thing == "tree":
        pen.rectangle((x - 4, top + 24, x + 4, bottom), fill=brown)
        pen.ellipse((left, top, right, top + 32), fill=(20, 125, 45))
    elif thing == "ball":
        pen.ellipse((left + 1, top, right - 1, bottom), fill=colour)
        pen.line((left + 2, top + 13, right - 2, top + 13), fill=white, width=3)
    elif thing == "flower":
        pen.rectangle((x - 2, top + 14, x + 2, bottom), fill=(20, 125, 45))
        for step_x, step_y in ((-8, 0), (8, 0), (0, -8), (0, 8)):
            pen.ellipse((x + step_x - 6, top + 14 + step_y - 6, x + step_x + 6, top + 14 + step_y + 6), fill=colour)
        pen.ellipse((x - 4, top + 10, x + 4, top + 18), fill=white)
    else:
        assert thing == "boat", f"no such thing: {thing}"
        pen.polygon([(left, bottom - 14), (right, bottom - 14), (right - 6, bottom), (left + 6, bottom)], fill=brown)
        pen.polygon([(x, top), (x, bottom - 17), (right - 2, bottom - 17)], fill=colour)
        pen.line((x, top, x, bottom - 14), fill=dark, width=2)
