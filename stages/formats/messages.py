"""Rows in the form of OpenAI's chats and TRL: `{"messages": [{"role", "content"}], "images": […]}`.

`content` is a text, or a list of parts: texts, pictures of their own (`image_url`, or `image` with a name, a data URL or
bytes), and places for the next of the row's `images` (a part `image` with nothing beside it, or `<image>` in a text). Where
a row has pictures and no question has a place for one, they all stand before the first question. Kind, task and id as in
`llava`.

A `system` turn keeps its role, and so the contract quarantines the row by name: nobody sends a system prompt to the tuned
model, so a row that has one would teach answers to prompts that never come. One that says nothing is no turn.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from stages.corpus.example import IMAGE, Turn
from stages.formats.draft import Draft, Task, UnreadableError, field, objects
from stages.formats.embedded import Picture, marked, picture, pictures_in
from stages.formats.llava import ROLES, labelled


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One row as a draft.

    Raises:
        UnreadableError: the row has no conversation, a part of an unknown type, a broken picture, or a field of the wrong type.
    """
    messages = objects(row.get("messages"), "messages")
    waiting = deque(pictures_in(row, "images") or pictures_in(row, "image"))
    shown: list[Picture] = []
    turns = []
    for message in messages:
        role = field(message, "role", str)
        text = _text(message.get("content"), waiting, shown)
        if role != "system" or text.strip():
            turns.append(Turn(role=ROLES.get(role, role), text=text))
    if not turns:
        raise UnreadableError("no_conversation")
    # Pictures without a place come last: the contract then counts more pictures than marks, or `marked` makes places.
    pictures = (*shown, *waiting)
    return labelled(row, marked(turns, len(pictures)), pictures, tasks, source)


def _text(content: Any, waiting: deque[Picture], shown: list[Picture]) -> str:
    """A turn's text; the pictures that have a place in it move from `waiting`, or out of the turn itself, to `shown`."""
    if content is None:
        raise UnreadableError("missing_field: content")
    if content == []:  # a turn that says nothing, of which the contract knows
        return ""
    texts = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else objects(content, "content"):
        kind = field(part, "type", str)
        if kind == "text":
            text = field(part, "text", str)
            places = text.count(IMAGE)
        elif kind in ("image", "image_url"):
            own = _own(part, kind)
            shown.extend(own)
            text, places = IMAGE, 1 - len(own)
        else:
            raise UnreadableError(f"unknown_part: {kind[:80]}")
        shown.extend(waiting.popleft() for _ in range(min(places, len(waiting))))
        texts.append(text)
    return "\n".join(texts)


def _own(part: Mapping[str, Any], kind: str) -> list[Picture]:
    """The picture that a part brings along, if it does."""
    if kind == "image_url":
        url = part.get("image_url")
        return [picture(field(url, "url", str) if isinstance(url, dict) else field(part, "image_url", str), "image_url")]
    # Parquet fills what a part does not have with nulls.
    given = [name for name in ("image", "url", "path") if part.get(name) is not None]
    return [picture(part[name], name) for name in given[:1]]
