"""LLaVA-instruct rows: `{"id", "image", "conversations": [{"from", "value"}]}`, the form most releases share.

`image`, or `images`, may be absent (text only), one picture, or a list of them; `<image>` stands first or last in a human
turn. The kind is the row's `type` where it has one, else inferred. Rows of this form carry no task, unless they add
`task_name`; without it the task is named after the source and the kind, as in Vision-Flan's `<dataset>+<task>`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.corpus.example import Turn
from stages.formats.draft import UNKNOWN_DOMAIN, Draft, Task, UnreadableError, field, identity
from stages.formats.embedded import Picture, pictures_in
from stages.formats.kinds import declared, inferred

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One row as a draft.

    Raises:
        UnreadableError: the row has no conversation, or a field of the wrong type.
    """
    return labelled(row, read_turns(row), pictures_in(row, "images") or pictures_in(row, "image"), tasks, source)


def labelled(
    row: Mapping[str, Any], turns: Sequence[Turn], images: tuple[Picture, ...], tasks: Mapping[str, Task], source: str
) -> Draft:
    """The draft of a conversation about `images`, with the labels of its row."""
    kind = field(row, "type", str, "")
    kind = declared(kind) if kind else inferred(turns)
    name = field(row, "task_name", str, "") or f"{source}+{kind}"
    task = tasks.get(name)
    return Draft(
        id=identity(row, "id"),
        task=name,
        domain=task.domain if task else field(row, "domain", str, UNKNOWN_DOMAIN),
        kind=task.kind if task else kind,
        images=images,
        turns=tuple(turns),
        templated=False,
        language=field(row, "language", str, ""),
    )


def read_turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation of a row; roles nobody knows stay as they are, for the contract to refuse by name."""
    conversation = row.get("conversations")
    if conversation is None or conversation == []:
        raise UnreadableError("no_conversation")
    if not isinstance(conversation, list):
        raise UnreadableError(f"wrong_type: conversations is {type(conversation).__name__}, wanted list")
    turns = []
    for number, turn in enumerate(conversation):
        if not isinstance(turn, dict):
            raise UnreadableError(f"wrong_type: conversations[{number}] is {type(turn).__name__}, wanted object")
        role, text = field(turn, "from", str), field(turn, "value", str)
        turns.append(Turn(role=ROLES.get(role, role), text=text))
    return tuple(turns)
