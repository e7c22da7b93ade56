"""How far a corpus is from the last accepted one: in its tasks, the lengths of its answers, its pictures and its kinds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.corpus.tally import Summary

FIGURES = {
    "task_mix": "the rows of each task of each source",
    "kind_mix": "the rows of each kind",
    "answer_words": "the words of a row's answers, in bins that double",
    "picture_sides": "the longest side of a row's pictures in pixels, in bins that double",
}
"""What is compared: shares of rows."""


@dataclass(frozen=True, slots=True)
class Part:
    """One task, kind or bin: its share of the rows of the accepted corpus, and of this one."""

    name: str
    was: float
    now: float
    weight: float
    """What it adds to the divergence."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far apart two corpora are in one figure; `parts` in the order of their names."""

    name: str
    divergence: float
    limit: float
    parts: tuple[Part, ...]

    @property
    def too_far(self) -> bool:
        """Whether a person should look."""
        return self.divergence > self.limit


def drift(now: Summary, accepted: Summary, limits: Mapping[str, float]) -> list[Drift]:
    """Every figure of `FIGURES`, `now` against `accepted`; `limits` says for each how far is too far."""
    return [compared(name, counted(now, name), counted(accepted, name), limits[name]) for name in FIGURES]


def counted(corpus: Summary, figure: str) -> dict[str, int]:
    """Rows by what a figure tells apart."""
    if figure == "task_mix":
        return {f"{source} · {task}": rows for source, tasks in corpus["tasks"].items() for task, rows in tasks.items()}
    return dict(corpus["kinds" if figure == "kind_mix" else figure])


def compared(name: str, now: Mapping[str, int], was: Mapping[str, int], limit: float) -> Drift:
    """The Jensen-Shannon divergence of two counts, in bits, and what each part adds to it.

    JSD = Σ ½ p log₂(p / m) + ½ q log₂(q / m) with m = ½ (p + q), after J. Lin, "Divergence measures based on the Shannon
    entropy", IEEE Transactions on Information Theory 37 (1991). 0 for equal shares, 1 for corpora that have nothing in
    common. Unlike the population stability index it is defined where one side has no row at all: a task that is new.
    Where one corpus has no rows and the other has, it is 1.
    """
    # Bins are numbers, and 16 comes after 4.
    names = sorted({*now, *was}, key=lambda one: (int(one), "") if one.isdecimal() else (-1, one))
    of_now, of_was = sum(now.values()), sum(was.values())
    parts = []
    for one in names:
        p, q = now.get(one, 0) / (of_now or 1), was.get(one, 0) / (of_was or 1)
        middle = (p + q) / 2
        weight = sum(share / 2 * math.log2(share / middle) for share in (p, q) if share > 0)
        # Of equal shares it is exactly nothing, and rounding must not make it less.
        parts.append(Part(one, q, p, max(weight, 0.0) if p != q else 0.0))
    whole = 1.0 if bool(of_now) != bool(of_was) else min(math.fsum(part.weight for part in parts), 1.0)
    return Drift(name, whole, limit, tuple(parts))


def read_accepted(folder: Path, name: str | None) -> Summary | None:
    """The summary `name`.json in `folder`; None if no name is given.

    Raises:
        ValueError: there is no such file, or it is no summary.
    """
    if name is None:
        return None
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"validate.drift.accepted in params.yaml is {name!r}, but there is no {path}; copy the summary.json of an accepted "
            "run there, or write null"
        )
    wanted = {"tasks", "kinds", "answer_words", "picture_sides"}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; copy the summary.json of an accepted run there") from error
    if not isinstance(read, dict) or not wanted <= read.keys() or not all(isinstance(read[key], dict) for key in wanted):
        raise ValueError(
            f"{path} is no summary of a corpus: it wants {', '.join(sorted(wanted))}; copy validate's summary.json"
        )
    return read
