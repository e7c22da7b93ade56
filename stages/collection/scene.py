"""A scene: facts that are known exactly, the picture that shows them, and what can be asked and said of it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, TypeVar

from PIL import Image

from stages.collection.drawing import Box

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One example of a task: the bare input (the instruction is the task's), and the answer."""

    task: str
    answer: str
    input: str = ""
    options: tuple[str, ...] = ()
    """The answers to choose from, of a task whose kind is choice."""
    among: tuple[str, ...] = ()
    """Other answers this task can have, from which a benchmark makes wrong options."""


@dataclass(frozen=True, slots=True)
class Said:
    """One question and its answer in the chatty voice of the synthesized rows."""

    question: str
    answer: str


class Coins:
    """What a judgement's answer shall be: each task in turn Yes and No in pairs, so that both are equally frequent."""

    def __init__(self) -> None:
        self.tossed: Counter[str] = Counter()

    def toss(self, task: str) -> bool:
        """True when the next question of `task` shall have the answer Yes."""
        pair, second = divmod(self.tossed[task], 2)
        self.tossed[task] += 1
        first_is_yes = Random(f"{task}/{pair}").random() < 0.5
        return first_is_yes != bool(second)


class Scene(ABC):
    """The base of all scene families; a scene is a frozen record of its facts, jitter included."""

    family: ClassVar[str]
    """The family's name, and in the pre-format its dataset's."""

    @classmethod
    @abstractmethod
    def imagine(cls, draw: Random) -> Self:
        """A scene whose facts come from `draw`."""

    @abstractmethod
    def paint(self) -> Image.Image:
        """The picture of these facts."""

    @abstractmethod
    def asks(self, draw: Random, coins: Coins) -> list[Ask]:
        """One example of each task that this scene can serve."""

    @abstractmethod
    def judge(self, draw: Random, yes: bool) -> str:
        """A question about this scene whose answer is Yes, or No, as wished."""

    @abstractmethod
    def caption(self) -> str:
        """The scene in one short sentence."""

    @abstractmethod
    def describe(self) -> str:
        """The scene in a few chatty sentences."""

    @abstractmethod
    def talk(self) -> list[Said]:
        """Questions about single facts, with chatty answers; at least three."""

    @abstractmethod
    def ponder(self) -> Said:
        """A question that takes a step beyond what is seen, with the step said aloud."""

    def things(self) -> list[tuple[str, Box]]:
        """What can be pointed at: a name that fits one thing only ("the red circle"), and its box."""
        return []


def other(draw: Random, values: Sequence[T], *known: T) -> T:
    """One of `values` that is none of `known`."""
    return draw.choice([value for value in values if value not in known])


def shuffled(draw: Random, values: Sequence[T]) -> tuple[T, ...]:
    """`values` in a drawn order."""
    return tuple(draw.sample(values, len(values)))


def options_with(draw: Random, answer: str, values: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of `values` in a drawn order, `answer` among them."""
    wrong = draw.sample([value for value in values if value != answer], count - 1)
    return shuffled(draw, [answer, *wrong])


def yes_no(answer: bool) -> str:
    """How a judgement is written."""
    return "Yes" if answer else "No"


def plural(count: int, noun: str) -> str:
    """`3 red crosses`, `1 red cross`."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}es" if noun.endswith("s") else f"{count} {noun}s"


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
