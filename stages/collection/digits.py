"""Handwritten digits: scikit-learn's bundled scans, each drawn once, and a fixed part of them kept for benchmarks."""

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import ClassVar, Self

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from stages.collection.drawing import COLOURS, GROUNDS, SIDE, canvas
from stages.collection.scene import Ask, Coins, Said, Scene, other, yes_no

NUMERALS = tuple(str(number) for number in range(10))
PARITY = ("even", "odd")
FRAME = 8
"""Width of the frame, in pixels."""


@lru_cache(maxsize=1)
def _scans() -> tuple[np.ndarray, list[int]]:
    bundle = load_digits()
    return bundle.images, [int(value) for value in bundle.target]


def scans(held_out: int) -> tuple[list[int], list[int]]:
    """The numbers of the scans for training, and of the `held_out` ones for benchmarks; the cut is the same for ever.

    Raises:
        ValueError: no scan would be left on one side.
    """
    order = list(range(len(_scans()[1])))
    if not 0 < held_out < len(order):
        raise ValueError(
            f"digits_held_out must lie between 1 and {len(order) - 1}, got {held_out}; change it in params.yaml, sample"
        )
    Random("the fixed cut of the handwritten digits").shuffle(order)
    return order[held_out:], order[:held_out]


@dataclass(frozen=True, slots=True)
class Digit(Scene):
    """One handwritten digit in white on black, as large as the picture, in a coloured frame.

    White, because six inks are six times as much to learn: from noise, 200 steps on coloured digits alone read 0.29 of
    those held out, and 150 on plain ones 0.98. It is neither moved nor scaled, for the hands that wrote it differ enough:
    after nine epochs from noise, a vision tower alone read 0.89 of the held-out ones so, and 0.64 where each was shifted
    and scaled a little (one seed).
    """

    scan: int
    value: int
    frame: str

    family: ClassVar[str] = "digits"

    @classmethod
    def imagine(cls, draw: Random) -> Self:
        """Any scan, for words alone; pictures come from `of`, so that held-out scans stay out."""
        return cls.of(draw.randrange(len(_scans()[1])), draw)

    @classmethod
    def of(cls, scan: int, draw: Random) -> Self:
        """The scan of that number, in a drawn frame."""
        return cls(scan, _scans()[1][scan], draw.choice(tuple(COLOURS)))

    def paint(self) -> Image.Image:
        """The 8 x 8 scan, smoothly enlarged."""
        image, pen = canvas(GROUNDS["black"])
        strength = Image.fromarray(np.minimum(_scans()[0][self.scan] * 16, 255).astype(np.uint8))
        mask = strength.resize((SIDE - 2 * FRAME, SIDE - 2 * FRAME), Image.Resampling.BICUBIC)
        image.paste((255, 255, 255), (FRAME, FRAME), mask)
        pen.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=COLOURS[self.frame], width=FRAME)
        return image

    @property
    def parity(self) -> str:
        """Even or odd."""
        return PARITY[self.value % 2]

    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """Reading, and what follows from it."""
        yes = coins.toss("digits+check")
        return [
            Ask("digits+reading", str(self.value), among=NUMERALS),
            Ask("digits+parity", self.parity, options=PARITY),
            Ask("digits+check", yes_no(yes), self.judge(draw, yes)),
            Ask("digits+next", str(self.value + 1), among=(*NUMERALS[1:], "10")),
            Ask("digits+frame", self.frame, among=tuple(COLOURS)),
        ]

    def judge(self, draw: Random, yes: bool) -> str:
        """Is it this digit?"""
        return f"Is the digit a {self.value if yes else other(draw, range(10), self.value)}?"

    def caption(self) -> str:
        """The scene in one short sentence."""
        return f"A handwritten {self.value}, the frame is {self.frame}."

    def describe(self) -> str:
        """The scene in a few chatty sentences."""
        return (
            f"The picture shows one handwritten digit. It is the number {self.value}, "
            f"written in white on black, and the frame around it is {self.frame}. The number {self.value} is {self.parity}."
        )

    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers."""
        return [
            Said("Could you tell me which number somebody wrote here?", f"Somebody wrote the number {self.value} here."),
            Said("And what is around it?", f"Around it there is a frame, and the frame is {self.frame}."),
            Said(
                "What comes after it when you count?",
                f"When you count, the number {self.value + 1} comes after the number {self.value}.",
            ),
        ]

    def ponder(self) -> Said:
        """Why the number is even or odd."""
        can = "can" if self.parity == "even" else "cannot"
        return Said(
            "Could two friends share this many apples fairly, and why?",
            f"The handwritten number is {self.value}, which is {self.parity}. "
            f"So two friends {can} share {self.value} apples fairly.",
        )
