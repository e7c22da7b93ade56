"""Rows of the Cauldron and of FineVision: `{"images": [{bytes, path}], "texts": [{"user", "assistant"}]}`, in Parquet.

All texts of a row are about all its pictures, and become one conversation, as its makers train it; so a row of the source is
one line of the ledger and one example. The pictures stand before the first question. A task is named after the data set
that the row (FineVision) or its texts (the Cauldron) name as their `source`. Ratings are not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.corpus.example import Turn
from stages.formats.draft import Draft, Task, field, objects
from stages.formats.embedded import marked, pictures_in
from stages.formats.llava import labelled


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One row as a draft.

    Raises:
        UnreadableError: the row has no texts, a broken picture, or a field of the wrong type.
    """
    texts = objects(row.get("texts"), "texts")
    turns = []
    for text in texts:
        turns.append(Turn(role="user", text=field(text, "user", str)))
        turns.append(Turn(role="assistant", text=field(text, "assistant", str)))
    pictures = pictures_in(row, "images")
    return labelled(row, marked(turns, len(pictures)), pictures, tasks, _data_set(row, texts) or source)


def _data_set(row: Mapping[str, Any], texts: Sequence[Mapping[str, Any]]) -> str:
    """The data set the row came from, as far as it says one; empty where its texts came from several."""
    named = {field(text, "source", str, "") for text in texts}
    return field(row, "source", str, "") or (named.pop() if len(named) == 1 else "")
