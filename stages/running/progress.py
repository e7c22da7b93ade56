"""Progress of long work: how far, how fast, how long still."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], doing: str, unit: str = "row", total: int | None = None, done: int = 0) -> "tqdm[T]":
    """`items` unchanged, with a line of rate and time left on stderr; where no person watches, a line every 10 s.

    `done`: of `total`, what was done before this.
    """
    seldom = 0.2 if sys.stderr.isatty() else 10
    return tqdm(items, desc=doing, unit=unit, total=total, initial=done, mininterval=seldom, leave=True)
