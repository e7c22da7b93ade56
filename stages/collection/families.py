"""All scene families, how many pictures each gets, and their tasks with the instructions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import yaml

from stages.collection.charts import Bars, Table
from stages.collection.counting import Dice, Flock
from stages.collection.digits import Digit
from stages.collection.odd import Odd
from stages.collection.scene import Scene
from stages.collection.shapes import Pair, Single
from stages.collection.signs import Arrow, Light
from stages.collection.street import Street
from stages.collection.words import Clock, Sum, Word

SHARES: dict[type[Scene], int] = {  # of a hundred composed pictures; families with more answers to tell apart get more
    Single: 10,
    Pair: 12,
    Flock: 10,
    Dice: 6,
    Word: 10,
    Sum: 7,
    Clock: 9,
    Bars: 9,
    Table: 5,
    Arrow: 4,
    Light: 3,
    Odd: 6,
    Street: 9,
}
FAMILIES: tuple[type[Scene], ...] = (Digit, *SHARES)


@dataclass(frozen=True, slots=True)
class Task:
    """A named ability: where it belongs, the form of its answer, and what people are told to do."""

    domain: str
    kind: str
    instructions: tuple[str, ...]
    sought: tuple[str, ...]
    """What the picture is asked for, its noun first: "colour of the frame". Empty where the answer must be worked out."""


@lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """The tasks by name, `<family>+<task>`, as written in tasks.yaml."""
    read = yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8"))
    return {
        name: Task(entry["domain"], entry["kind"], tuple(entry["instructions"]), tuple(entry.get("sought", ())))
        for name, entry in read.items()
    }


def deal(count: int) -> list[type[Scene]]:
    """`count` families by their shares, interleaved, so that a longer deal begins with the shorter one."""
    given = dict.fromkeys(SHARES, 0)
    dealt: list[type[Scene]] = []
    total = sum(SHARES.values())
    for number in range(1, count + 1):
        behind = max(SHARES, key=lambda family: SHARES[family] * number / total - given[family])
        given[behind] += 1
        dealt.append(behind)
    return dealt


def imagined(seed: int, purpose: str, count: int) -> Iterator[tuple[Scene, Random]]:
    """`count` composed scenes, each with a source of chance of its own; another purpose draws other scenes."""
    for number, family in enumerate(deal(count)):
        draw = Random(f"{seed}/{purpose}/{number}")
        yield family.imagine(draw), draw
