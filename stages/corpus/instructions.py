"""A row as it will be asked: with an instruction of its task where it is bare input, a request for the form of the answer
where its kind has some, and its pictures first.

What is drawn for a row hangs on what it asks (its source, task, questions and pictures) and on the seed; neither its number
nor any other row has a part in it. So rows that are added, removed or moved change nothing about the rest.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from stages.corpus.example import IMAGE, Example, Turn
from stages.corpus.text import HAN

MARKS = re.compile(rf"\s*(?:{re.escape(IMAGE)}\s*)+")
Instructions = Mapping[tuple[str, str], Sequence[str]]
"""Of each (source, task)."""
Suffixes = Mapping[str, Sequence[str]]
"""Of each kind, requests for the form of the answer."""
NO_SUFFIXES: Suffixes = MappingProxyType({})

ASKS_FOR_A_FORM = re.compile(
    r"(?:^|[.?!:;,\n]\s*|\bthen\s+)(?:please\s+|and\s+)?"
    r"(?:answer|respond|reply|give|state|write|say|choose|select|pick|provide|include|locate|output|return|describe|use|finish|conclude|keep)\b"
    r"[^.?!\n]*\b(?:words?|phrase|letters?|sentences?|yes|no|true|false|options?|choices?|number|digits?|box(?:es)?|coordinates|"
    r"brief(?:ly)?|short(?:ly)?|paragraphs?|detail(?:s|ed)?|format|directly|only)\b[^.?!\n]*[.!:]?\s*$",
    re.IGNORECASE,
)
"""A last sentence that tells how to answer: an order to answer, and a word for a form. A question is none."""


def read_instructions(ingested: Path) -> dict[tuple[str, str], list[str]]:
    """The expert-written instructions of each (source, task)."""
    found = {}
    for path in sorted(ingested.glob("[!.]*/instructions.json")):
        for task, about in json.loads(path.read_text(encoding="utf-8")).items():
            found[path.parent.name, task] = about["instructions"]
    return found


def conversation(row: Example, instructions: Instructions, seed: int, suffixes: Suffixes = NO_SUFFIXES) -> Example:
    """`row` as it will be asked: with one of its task's instructions if it is templated, and its pictures first.

    If `suffixes` has some for the row's kind, one of them ends every question of the row, on a line of its own, but for
    questions that ask for a form of the answer already, and for those in Chinese, which none of ours is.

    Raises:
        ValueError: the row is templated, and its source has no instruction for its task.
    """
    turns = image_first(row.turns, len(row.images))
    if row.templated:
        choices = instructions.get((row.source, row.task))
        if not choices:
            raise ValueError(
                f"row {row.row} of source {row.source} needs an instruction for task {row.task!r}, but the source has none; "
                f"add it to the file that ingest.sources.{row.source}.instructions names"
            )
        marks = IMAGE * len(row.images)
        given = turns[0].text[len(marks) :]
        parts = (choices[draw(row, seed, "instruction") % len(choices)], given)
        turns = (Turn("user", marks + "\n\n".join(part for part in parts if part)), *turns[1:])
    if wanted := suffixes.get(row.kind):
        suffix = wanted[draw(row, seed, "suffix") % len(wanted)]
        turns = tuple(turn if turn.role != "user" or says_how(turn.text) else _with(turn, suffix) for turn in turns)
    return replace(row, turns=turns, templated=False)


def draw(row: Example, seed: int, purpose: str) -> int:
    """A number below 2⁶⁴ that only the seed, the purpose and what the row asks decide."""
    asked = [turn.text for turn in row.turns if turn.role == "user"]
    parts = [purpose, row.source, row.task, str(len(row.images)), *row.images, *asked]
    # Lengths before the parts, so that no two different rows run together into one text.
    content = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(f"{seed}/{content}".encode()).digest()[:8])


def says_how(question: str) -> bool:
    """Whether `question` ends with a request for a form of the answer, or is in Chinese, where this cannot be told."""
    return HAN.search(question) is not None or ASKS_FOR_A_FORM.search(question) is not None


def _with(turn: Turn, suffix: str) -> Turn:
    return Turn(turn.role, f"{turn.text}\n{suffix}" if turn.text.replace(IMAGE, "") else turn.text + suffix)


def image_first(turns: Sequence[Turn], images: int) -> tuple[Turn, ...]:
    """`turns` with every `<image>` mark moved to the front of the first user turn, as LLaVA does before training.

    Behind a picture that comes first all questions are alike, so they can share it; a picture after the question would
    have to be read again for each. A turn without a mark stays as it is, to the letter, and so does every answer: a mark there
    is refused later, not taken out of what is learnt.
    """
    bare = [
        Turn(turn.role, MARKS.sub(_gap, turn.text)) if turn.role == "user" and IMAGE in turn.text else turn for turn in turns
    ]
    return (Turn(bare[0].role, IMAGE * images + bare[0].text), *bare[1:]) if images else tuple(bare)


def _gap(marks: re.Match[str]) -> str:
    """What stays where marks and the white space around them stood: nothing at an end, else a line feed or a space."""
    if marks.start() == 0 or marks.end() == len(marks.string):
        return ""
    return "\n" if "\n" in marks.group() else " "
