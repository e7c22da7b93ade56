"""The data contract as a page: every expectation and the rows that broke it with their pictures, tasks, drift, sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from stages.corpus.drift import FIGURES, Drift, Part
from stages.corpus.example import Example
from stages.corpus.pictures import read_rows, shards_of
from stages.pages.drawing import whisker
from stages.pages.page import write_page
from stages.pages.pictures import picture
from stages.pages.wording import percent

LONGEST_TEXT = 400
"""Characters shown of a turn."""
LONGEST_LABEL = 80
"""Characters shown of a name that comes from data."""
LONGEST_REASON = 4000
"""Characters shown of a reason to stop, which may name every expectation."""
TURNS_SHOWN = 6
"""Turns shown of a row."""
PICTURES_SHOWN = 4
"""Pictures shown of a row."""
TASKS_SHOWN = 500
"""Tasks listed; those that break something come first."""
PARTS_SHOWN = 12
"""Tasks, kinds or bins drawn of a figure that has drifted: those that moved most."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One expectation, with the number of rows or tasks that broke it and a few of these rows."""

    name: str
    meaning: str
    severity: str
    judged: int
    """Rows or tasks of which it has something to say."""
    failed: int
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Told:
    """What the page tells of a run."""

    stopped: Sequence[str]
    """Why the run stopped, a reason an entry; empty if it did not."""
    rows: int
    quarantined: int
    """Rows that go no further."""
    warned: int
    """Warnings: a row that goes on and breaks two expectations counts twice."""
    clauses: Sequence[Clause]
    """Of single rows, in the contract's order."""
    task_clauses: Sequence[Clause]
    tasks: pl.DataFrame
    """`tally.tasks`, with the expectations that each breaks (`broken`)."""
    drifts: Sequence[Drift] | None
    """None if there is no accepted corpus to compare with."""
    accepted: str
    """The name of that corpus."""
    sources: Sequence[dict[str, Any]]
    """name, licence, language, rows, unreadable, quarantined."""


def write_contract(path: Path, stores: Sequence[Path], told: Told) -> None:
    """Write the page about a run; pictures come from the image stores in `stores`."""
    wanted = {digest for clause in told.clauses for one in clause.examples for digest in one.images[:PICTURES_SHOWN]}
    lines = sorted(told.tasks.to_dicts(), key=lambda one: (not one["broken"], one["source"], one["task"]))
    write_page(
        path,
        "contract.html",
        told=told,
        stopped=[_shown(reason, LONGEST_REASON) for reason in told.stopped],
        pictures={digest: picture(content) for digest, content in _whole_pictures(stores, wanted)},
        tasks=lines[:TASKS_SHOWN],
        more_tasks=max(len(lines) - TASKS_SHOWN, 0),
        figures_compared=FIGURES,
        most_moved=most_moved,
        moved=moved,
        bin_name=bin_name,
        visible=visible,
        label=label,
        turns_shown=TURNS_SHOWN,
        pictures_shown=PICTURES_SHOWN,
    )


def _whole_pictures(stores: Sequence[Path], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """(sha256, bytes) of the `wanted` pictures that decode.

    What did not decode is not given to a decoder again: it may be a bomb, or a program in a picture's clothes.
    """
    for rows in read_rows(shards_of(stores), ["sha256", "whole", "bytes"], wanted):
        whole = rows.filter(rows["whole"])
        yield from zip(whole["sha256"].to_pylist(), whole["bytes"].to_pylist(), strict=True)


def most_moved(one: Drift) -> list[Part]:
    """The parts that a figure's divergence comes from, in the order of their names; bins all, if they are few."""
    if len(one.parts) <= PARTS_SHOWN:
        return list(one.parts)
    most = sorted(one.parts, key=lambda part: (-part.weight, part.name))[:PARTS_SHOWN]
    return [part for part in one.parts if part in most]


def moved(part: Part, one: Drift) -> Markup:
    """A dot where the share is now, in a ring where it was."""
    widest = max([0.01, *(share for other in most_moved(one) for share in (other.was, other.now))])
    told = f"{label(part.name)}: {percent(part.was)} of the accepted rows, now {percent(part.now)}"
    return whisker(part.now, None, None, (0, widest), tone="bad" if one.too_far else "accent", label=told, ring=part.was)


def bin_name(figure: str, name: str) -> str:
    """A bin by both its ends; what is no bin keeps its name."""
    if figure not in ("answer_words", "picture_sides") or not name.isdecimal():
        return label(name)
    end = int(name)
    return str(end) if end <= 2 else f"{end // 2 + 1} to {end}"


def visible(text: str) -> str:
    """`text` cut to what a page has room for, with the characters that cannot be seen written out."""
    return _shown(text, LONGEST_TEXT)


def label(text: str) -> str:
    """A name that comes from data, as `visible`, and shorter."""
    return _shown(text, LONGEST_LABEL)


def _shown(text: str, most: int) -> str:
    cut = text if len(text) <= most else text[:most] + " …"
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in cut)
