"""How an exported row is written: its labels, its pictures, and its conversation in one of the forms."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.corpus import example
from stages.corpus.example import Turn

OWN_NAMES = {"task": "task_name", "kind": "type"}
"""What LLaVA's rows, and so our readers, call two of our fields."""
FIELD_OF = {OWN_NAMES.get(name, name): name for name in example.SCHEMA.names if name not in ("images", "turns", "templated")}
LABELS = {name: example.SCHEMA.field(field).type for name, field in FIELD_OF.items()}
"""Fields of an example that are written as they are."""
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def _texts(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"user": asked.text, "assistant": said.text} for asked, said in zip(turns[::2], turns[1::2], strict=True)]


@dataclass(frozen=True, slots=True)
class Form:
    """How a conversation is written."""

    column: str
    fields: tuple[str, str]
    """Of each entry of the column, both texts."""
    write: Callable[[Sequence[Turn]], list[dict[str, str]]]
    """Turns without marks → the entries."""

    @property
    def talk(self) -> pa.DataType:
        """The column's type."""
        return pa.list_(pa.struct([(field, pa.string()) for field in self.fields]))


FORMS = {
    "messages": Form("messages", ("role", "content"), _messages),
    "fine_vision": Form("texts", ("user", "assistant"), _texts),
}


def schema_of(form: Form, licences: Mapping[str, str | None]) -> pa.Schema:
    """The columns of what is written; `datasets` reads from it that `images` are pictures, and people the licences."""
    names = {"string": "string", "int64": "int64"}

    def value(kind: pa.DataType) -> dict[str, str]:
        return {"dtype": names[str(kind)], "_type": "Value"}

    features: dict[str, Any] = {
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        form.column: {"feature": {field: value(pa.string()) for field in form.fields}, "_type": "List"},
        **{name: value(kind) for name, kind in LABELS.items()},
    }
    about = {"huggingface": {"info": {"features": features}}, "licences": licences}
    return pa.schema(
        [("images", IMAGES), (form.column, form.talk), *LABELS.items()],
        metadata={name: json.dumps(said, ensure_ascii=False) for name, said in about.items()},
    )
