"""SVIT rows, in both of their forms.

Raw: an object a picture, `{"image_id", "conversations": [{"content": [{"from": "user" | "gpt", "value"}, …]}, …]}`, without
`<image>`; the picture is `{image_id}.jpg` in one of Visual Genome's two folders. Its blocks know nothing of each other, so
each is a row of its own, with the id `{image_id}#{place of the block}`; the file's name says its kind. What a text mentions
stands between `<st>` and `<ed>`, boxes behind it. Like the releases in LLaVA's form, examples have `<image>` first and
no `<st>` and `<ed>`, which are marks and no words.

LLaVA's form (core-150K, mix-665K): the kind stands in the id, or in how a question ends. Boxes there are padded to a square
already, raw ones are not: `stages/corpus/boxes.py` does it for whoever shows squares.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from stages.corpus.boxes import parsed
from stages.corpus.example import IMAGE, Turn
from stages.formats import llava
from stages.formats.draft import Draft, Task, UnreadableError, identity

FILES = {
    "conversation": "conversation",
    "complex_reasoning": "reasoning",
    "referring_qa": "referring",
    "detail_description": "description",
}
"""Name of a raw file → the kind of all its answers."""
IDS = {
    "svit_conversation_": "conversation",
    "svit_complex_": "reasoning",
    "svit_referring_": "referring",
    "svit_detail_": "description",
}
"""How ids begin in LLaVA's form → the kind; the other rows of the mix are LLaVA's."""
ASKS_FOR_BOXES = re.compile(
    r"boxes of the mentioned|coordinates for each mentioned|objects with their coordinates", re.IGNORECASE
)
"""What tells a referring question in LLaVA's form."""
MARKS = re.compile(r"</?(?:st|ed)>")
BRACKETS = re.compile(r"(?P<mentioned><ed>\s*)?\[(?P<inside>[^\[\]]*)(?P<end>\])?")
EMPTY = re.compile(r"\W*message is empty\W*", re.IGNORECASE)
"""What some answers are instead of an answer: a failure of the machine that wrote them."""


def rows(entry: Mapping[str, Any], file: str) -> Iterable[Mapping[str, Any]]:
    """The blocks of a raw object, each with the picture's id and its file's kind; any other object itself."""
    blocks = entry.get("conversations")
    if not _is_raw(entry) or not isinstance(blocks, list) or not blocks or _some_has("from", blocks):
        yield entry
        return
    picture = entry.get("image_id")
    for number, block in enumerate(blocks):
        yield {
            "id": f"{picture if isinstance(picture, str | int) else ''}#{number}",
            "image_id": picture,
            "type": FILES.get(PurePosixPath(file).stem),
            "conversations": block.get("content") if isinstance(block, dict) else block,
            **({"images": entry["images"]} if "images" in entry else {}),
        }


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One block, or one row of LLaVA's form, as a draft.

    Raises:
        UnreadableError: it has no conversation or no picture's id, a field of the wrong type, an answer that says only
            that it is empty, or brackets that should hold a box in the picture and do not.
    """
    turns = llava.read_turns(row)
    if any(turn.role == "assistant" and EMPTY.fullmatch(turn.text) for turn in turns):
        raise UnreadableError("message_is_empty")
    raw = _is_raw(row)
    marked = raw and any(MARKS.search(turn.text) for turn in turns)
    kind = row.get("type") or ("referring" if marked else _kind(row, turns))
    if marked or kind == "referring":
        for turn in turns:
            _check_boxes(turn.text)
    if not raw:
        return llava.read_row({**row, "type": kind}, tasks, source)
    picture = identity(row, "image_id")
    if not picture:
        raise UnreadableError("missing_field: image_id")
    draft = llava.read_row({**row, "type": kind, "image": f"{picture}.jpg"}, tasks, source)
    bare = [replace(turn, text=MARKS.sub("", turn.text)) for turn in turns]
    return replace(draft, turns=(replace(bare[0], text=f"{IMAGE}\n{bare[0].text}"), *bare[1:]))


def _is_raw(row: Mapping[str, Any]) -> bool:
    return "image" not in row and ("image_id" in row or _some_has("content", row.get("conversations")))


def _some_has(name: str, parts: Any) -> bool:
    """Whether the parts of a conversation are blocks, which have `content`, or turns, which have `from`."""
    return isinstance(parts, list) and any(isinstance(part, dict) and name in part for part in parts)


def _kind(row: Mapping[str, Any], turns: Sequence[Turn]) -> str | None:
    """The kind as the id or a question tells it; None where they do not, and the answers must."""
    name = str(row.get("id"))
    told = next((kind for start, kind in IDS.items() if name.startswith(start)), None)
    if told is None and any(turn.role == "user" and ASKS_FOR_BOXES.search(turn.text) for turn in turns):
        return "referring"
    return told


def _check_boxes(text: str) -> None:
    """Refuse brackets that should hold a box: those behind something mentioned, and those with a digit in them."""
    for found in BRACKETS.finditer(text):
        inside, end = found["inside"], found["end"] or ""
        if not found["mentioned"] and not re.search(r"\d", inside):
            continue
        shown = f"[{inside}{end}"[:80]
        box = parsed(inside) if end else None
        if box is None:
            raise UnreadableError(f"unparsable_box: {shown}")
        if not box.within:
            raise UnreadableError(f"box_outside_image: {shown}")
        if not box.ordered:
            raise UnreadableError(f"reversed_box: {shown}")
