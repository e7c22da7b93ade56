"""Progress of long work: how far, how fast, how long still."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], doing: str, unit: str = "row", total: int | None = None, done: int = 0, seldom: float = 10
) -> "tqdm[T]":
    """`items` unchanged, with a line of rate and time left on stderr; where no person watches, a line every `seldom` seconds.

    `done`: of `total`, what was done before this.
    """
    every = 0.2 if sys.stderr.isatty() else seldom
    return tqdm(items, desc=doing, unit=unit, total=total, initial=done, mininterval=every, maxinterval=max(10, every))
