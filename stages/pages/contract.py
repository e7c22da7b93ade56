"""The data contract as a page: every expectation, how many rows it held for, and rows that broke it with their pictures."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.corpus.example import Example
from stages.corpus.images import read_images
from stages.pages.page import write_page
from stages.pages.pictures import picture

SIGNS = {"check-circle": "✓", "times": "✗", "exclamation-triangle": "!"}
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


def write_docs(path: Path, sections: Sequence[str]) -> None:
    """Write the sections of Great Expectations' page on a page of ours, because its own loads its looks from servers.

    The sections are HTML, and what comes from data must be escaped in them already.
    """
    write_page(path, "docs.html", sections=[Markup(_with_letters(section)) for section in sections])


def _with_letters(section: str) -> str:
    """The section with its signs as letters; upstream they are glyphs of a font from a server."""
    return re.sub(r'<i class="fas fa-([a-z-]+)[^>]*></i>', lambda sign: SIGNS.get(sign[1], ""), section)


def visible(text: str) -> str:
    """`text` cut to what a page has room for, with the characters that cannot be seen written out."""
    cut = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in cut)
