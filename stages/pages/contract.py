"""The data contract as a page: every expectation, how many rows it held for, and rows that broke it with their pictures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.corpus.example import Example
from stages.corpus.images import read_images
from stages.pages.page import write_page
from stages.pages.pictures import picture

NOTHING_LEAVES = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)
"""Forbids a page every script and every request."""
LONGEST_TEXT = 400
"""Characters shown of a turn."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One expectation, with the number of rows that broke it and a few of these."""

    name: str
    meaning: str
    failed: int
    examples: Sequence[Example]


def write_contract(
    path: Path, stores: Sequence[Path], *, rows: int, passed: int, clauses: Sequence[Clause], showable: Collection[str]
) -> None:
    """Write the page; pictures come from the image stores in `stores`, and only `showable` ones are drawn."""
    wanted = {digest for clause in clauses for one in clause.examples for digest in one.images}.intersection(showable)
    shown = {digest: picture(content) for digest, content in read_images(stores, wanted)} if wanted else {}
    write_page(
        path,
        "contract.html",
        rows=rows,
        passed=passed,
        clauses=clauses,
        broken=[clause for clause in clauses if clause.failed],
        pictures=shown,
        visible=visible,
    )


def visible(text: str) -> str:
    """`text` cut to what a page has room for, with the characters that cannot be seen written out."""
    cut = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in cut)
