"""A row as it will be asked: with an expert-written instruction of its task where it is bare input, its pictures first."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stages.corpus.example import IMAGE, Example, Turn

MARKS = re.compile(rf"\s*(?:{re.escape(IMAGE)}\s*)+")


def read_instructions(ingested: Path) -> dict[tuple[str, str], list[str]]:
    """The expert-written instructions of each (source, task)."""
    found = {}
    for path in sorted(ingested.glob("*/instructions.json")):
        for task, about in json.loads(path.read_text(encoding="utf-8")).items():
            found[path.parent.name, task] = about["instructions"]
    return found


def conversation(row: Example, instructions: dict[tuple[str, str], list[str]], seed: int) -> Example:
    """`row` as it will be asked: with one of its task's instructions if it is templated, and its pictures first.

    Which instruction is drawn depends on the row and the seed alone, so adding rows changes no other.

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
        draw = hashlib.sha256(f"{seed}/{row.source}/{row.row}".encode()).digest()
        instruction = choices[int.from_bytes(draw[:8]) % len(choices)]
        marks, given = (
            turns[0].text[: len(IMAGE) * len(row.images)],
            turns[0].text[len(IMAGE) * len(row.images) :],
        )
        turns = (Turn("user", marks + "\n\n".join(part for part in (instruction, given) if part)), *turns[1:])
    return replace(row, turns=turns, templated=False)


def image_first(turns: Sequence[Turn], images: int) -> tuple[Turn, ...]:
    """`turns` with every `<image>` mark moved to the front of the first user turn, as LLaVA does before training.

    Behind a picture that comes first all questions are alike, so they can share it; a picture after the question would
    have to be read again for each. A turn without a mark stays as it is, to the letter, and so does every answer: a mark there
    is refused later, not taken out of what is learnt.
    """
    bare = [Turn(turn.role, MARKS.sub(_gap, turn.text)) if turn.role == "user" else turn for turn in turns]
    return (Turn(bare[0].role, IMAGE * images + bare[0].text), *bare[1:])


def _gap(marks: re.Match[str]) -> str:
    """What stays where marks and the white space around them stood: nothing at an end, else a line feed or a space."""
    if marks.start() == 0 or marks.end() == len(marks.string):
        return ""
    return "\n" if "\n" in marks.group() else " "
