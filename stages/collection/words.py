"""Things to read: a word in big letters, a small sum, and a clock."""

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from PIL import Image

from stages.collection.drawing import COLOURS, GROUNDS, TINTS, Box, around, canvas, words
from stages.collection.scene import Ask, Coins, Said, Scene, a, other, yes_no

MEANINGS = {
    "CAT": "animal",
    "DOG": "animal",
    "COW": "animal",
    "PIG": "animal",
    "BUS": "vehicle",
    "CAR": "vehicle",
    "VAN": "vehicle",
    "TEA": "food",
    "PIE": "food",
    "EGG": "food",
    "JAM": "food",
    "HAT": "clothing",
    "TIE": "clothing",
    "BOX": "container",
    "CUP": "container",
}
CATEGORIES = ("animal", "vehicle", "food", "clothing", "container")
WORDS = tuple(MEANINGS)
INITIALS = tuple(sorted({word[0] for word in WORDS}))
INKS = ("red", "green", "blue", "purple")
OPERATORS = ("plus", "minus")
HOURS = tuple(str(hour) for hour in range(1, 13))
FACES = ("red", "green", "blue", "yellow")


@dataclass(frozen=True, slots=True)
class Word(Scene):
    """One short word across the picture."""

    word: str
    ink: str
    tint: int
    y: int

    family: ClassVar[str] = "text"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        return cls(draw.choice(WORDS), draw.choice(INKS), draw.randint(0, TINTS), draw.choice((32, 48, 64)))

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS["white"], self.tint)
        words(pen, self.word, (48, self.y), 38, COLOURS[self.ink])
        return image

    @property
    def meaning(self) -> str:
        """What kind of thing the word names."""
        return MEANINGS[self.word]

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("text+check")
        return [
            Ask("text+read", self.word, among=WORDS),
            Ask("text+initial", self.word[0], among=INITIALS),
            Ask("text+meaning", self.meaning, options=CATEGORIES),
            Ask("text+ink", self.ink, among=INKS),
            Ask("text+check", yes_no(yes), self.judge(draw, yes)),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is it that word?"""
        return f'Is the word in the image "{self.word if yes else other(draw, WORDS, self.word)}"?'

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"The word {self.word} in {self.ink} on white."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a single word in big letters on a white background. The word is {self.word}, "
            f"printed in {self.ink}. It names {a(self.meaning)}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you read it to me?", f"The big letters say {self.word}."),
            Said("What does that word stand for?", f"The word {self.word} stands for {a(self.meaning)}."),
            Said("And how is it printed?", f"It is printed in {self.ink} letters on a white background."),
        ]

    def ponder(self) -> Said:
        """Where one would meet the word."""
        where = {
            "animal": "on a farm or at home",
            "vehicle": "on a road",
            "food": "in a kitchen",
            "clothing": "in a wardrobe",
            "container": "on a shelf",
        }[self.meaning]
        return Said(
            "Where might I meet the thing that is named here, and why?",
            f"The word is {self.word}, which is {a(self.meaning)}. So you might meet it {where}.",
        )


@dataclass(frozen=True, slots=True)
class Sum(Scene):
    """Two small numbers and a sign between them."""

    first: int
    second: int
    operator: str
    ink: str
    tint: int
    y: int

    family: ClassVar[str] = "sums"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`; no result is below nought."""
        operator = draw.choice(OPERATORS)
        first, second = draw.randint(1, 5), draw.randint(1, 5)
        if operator == "minus" and second > first:
            first, second = second, first
        return cls(first, second, operator, draw.choice(INKS), draw.randint(0, TINTS), draw.choice((32, 48, 64)))

    @property
    def result(self) -> int:
        """What it makes."""
        return self.first + self.second if self.operator == "plus" else self.first - self.second

    def paint(self) -> Image.Image:
        """The picture of these facts."""
        image, pen = canvas(GROUNDS["white"], self.tint)
        sign = "+" if self.operator == "plus" else "-"
        for x, text in ((18, str(self.first)), (48, sign), (78, str(self.second))):
            words(pen, text, (x, self.y), 50, COLOURS[self.ink])
        return image

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("sums+check")
        return [
            Ask("sums+result", str(self.result), among=tuple(str(n) for n in range(11))),
            Ask("sums+operator", self.operator, options=OPERATORS),
            Ask("sums+first", str(self.first), among=tuple(str(n) for n in range(1, 6))),
            Ask("sums+check", yes_no(yes), self.judge(draw, yes)),
            Ask("sums+sentence", f"{self.first} {self.operator} {self.second} is {self.result}."),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is that the result?"""
        result = self.result if yes else other(draw, range(11), self.result)
        return f"Is the answer to the arithmetic question in the image {result}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"The sum {self.first} {self.operator} {self.second} in {self.ink}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a small sum in {self.ink} on a white background. "
            f"It reads {self.first} {self.operator} {self.second}, which makes {self.result}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you read the sum to me?", f"The sum reads {self.first} {self.operator} {self.second}."),
            Said("What does it make?", f"If you work it out, it makes {self.result}."),
            Said("Which colour did they print it in?", f"They printed the sum in {self.ink} on white."),
        ]

    def ponder(self) -> Said:
        """The same sum with one more."""
        more = self.result + 1
        return Said(
            "What would it make if the first number were one larger, and why?",
            f"Now {self.first} {self.operator} {self.second} makes {self.result}. "
            f"With one more at the start it would make {more}.",
        )


@dataclass(frozen=True, slots=True)
class Clock(Scene):
    """A clock at a whole hour."""

    hour: int
    face: str
    x: int
    y: int
    side: int

    family: ClassVar[str] = "clocks"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""
        side = draw.randint(84, 90)
        return cls(draw.randint(1, 12), draw.choice(FACES), 48 + draw.randint(-3, 3), 48 + draw.randint(-3, 3), side)

    @property
    def box(self) -> Box:
        """The clock's whole face."""
        return around(self.x, self.y, self.side)

    def paint(self) -> Image.Image:
        """A thick hour hand; the thin minute hand points up, as at every whole hour."""
        image, pen = canvas(GROUNDS["white"])
        pen.ellipse(self.box.edges, fill=COLOURS[self.face])
        pen.ellipse(around(self.x, self.y, self.side - 14).edges, fill=(255, 255, 255))
        for hour in range(12):
            x, y = self._at(hour, 33)
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(120, 120, 120))
        pen.line((self.x, self.y, *self._at(0, 34)), fill=(150, 150, 150), width=3)
        x, y = self._at(self.hour, 27)
        pen.line((self.x, self.y, x, y), fill=(0, 0, 0), width=9)
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(0, 0, 0))
        return image

    def _at(self, hour: int, radius: int) -> tuple[float, float]:
        angle = math.pi * hour / 6
        return round(self.x + radius * math.sin(angle), 3), round(self.y - radius * math.cos(angle), 3)

    @property
    def later(self) -> int:
        """The hour after this one."""
        return self.hour % 12 + 1

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""
        yes = coins.toss("clocks+check")
        return [
            Ask("clocks+hour", str(self.hour), among=HOURS),
            Ask("clocks+later", str(self.later), among=HOURS),
            Ask("clocks+face", self.face, options=FACES),
            Ask("clocks+check", yes_no(yes), self.judge(draw, yes)),
            Ask("clocks+sentence", f"The clock shows {self.hour} o'clock."),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is it that hour?"""
        return f"Does the clock show {self.hour if yes else other(draw, range(1, 13), self.hour)} o'clock?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"A {self.face} clock at {self.hour} o'clock."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows a round clock with a {self.face} rim. Its long thin hand points straight up, "
            f"and its thick hand points at {self.hour}, so it is {self.hour} o'clock."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me how late it is?", f"The clock says that it is {self.hour} o'clock."),
            Said("What does the clock look like?", f"It is a round clock with a {self.face} rim."),
            Said("When will an hour have passed?", f"An hour will have passed at {self.later} o'clock."),
        ]

    def ponder(self) -> Said:
        """When a trip of an hour ends."""
        return Said(
            "If my train leaves now and rides for one hour, when do I arrive, and why?",
            f"The clock shows {self.hour} o'clock now. One hour later you arrive at {self.later} o'clock.",
        )

    def things(self) -> list[tuple[str, Box]]:
        """The clock."""
        return [(f"the {self.face} clock", self.box)]
