"""The data contract as a page: every expectation, how many rows it held for, and rows that broke it with their pictures."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stages.corpus.example import Example, examples_of
from stages.corpus.images import read_images
from stages.pages.page import write_page
from stages.pages.pictures import picture

LONGEST_TEXT = 400
"""Characters shown of a turn."""
EXAMPLES_SHOWN = 3
"""Rows shown of each broken expectation."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One expectation, with the number of rows that broke it and a few of these."""

    name: str
    meaning: str
    failed: int
    examples: Sequence[Example]


def write_contract(
    path: Path,
    *,
    stores: Sequence[Path],
    rows: pa.Table,
    meanings: Mapping[str, str],
    broken: Mapping[int, Sequence[str]],
    showable: Collection[str],
) -> None:
    """Write the page about all of `rows`, of which `broken` says by number which expectations they break.

    `meanings` says in words what each expectation wants. Pictures come from the image stores in `stores`, and only
    `showable` ones are drawn.
    """
    clauses = _clauses(rows, meanings, broken)
    wanted = {digest for clause in clauses for one in clause.examples for digest in one.images}.intersection(showable)
    shown = {digest: picture(content) for digest, content in read_images(stores, wanted)} if wanted else {}
    write_page(
        path,
        "contract.html",
        rows=len(rows),
        passed=len(rows) - len(broken),
        clauses=clauses,
        broken=[clause for clause in clauses if clause.failed],
        pictures=shown,
        visible=visible,
    )


def _clauses(rows: pa.Table, meanings: Mapping[str, str], broken: Mapping[int, Sequence[str]]) -> list[Clause]:
    by_name: dict[str, list[int]] = {name: [] for name in meanings}
    for number in sorted(broken):
        for name in broken[number]:
            by_name[name].append(number)
    return [
        Clause(
            name=name,
            meaning=meaning,
            failed=len(by_name[name]),
            examples=examples_of(rows.take(pa.array(by_name[name][:EXAMPLES_SHOWN], pa.int64()))),
        )
        for name, meaning in meanings.items()
    ]


def visible(text: str) -> str:
    """`text` cut to what a page has room for, with the characters that cannot be seen written out."""
    cut = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in cut)
