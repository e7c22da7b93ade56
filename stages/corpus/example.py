"""An example: image(s) and one conversation about them, with its task, kind and origin; and a table of them in Parquet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus import shards

Kind = Literal["judgement", "choice", "short", "long", "conversation", "reasoning", "referring", "description", "caption"]
KINDS: tuple[str, ...] = get_args(Kind)
RIGHT_OR_WRONG = ("judgement", "choice", "short")
"""Kinds whose answers are right or wrong; answers of all other kinds are long and only more or less alike."""
LLAVA_KINDS = {"conv": "conversation", "detail": "description", "complex": "reasoning"}
"""LLaVA's names for three of the kinds."""
ORIGINS = ("human", "synthesized")
IMAGE = "<image>"
"""Stands in a turn's text where an image is shown, in the upstream formats and here."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance: `role` is "user" or "assistant", and the two alternate, the user first."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a source, in the one form every stage after `ingest` speaks.

    `source` and `row` (0-based, in the source's file) name it for ever; upstream ids are not unique. Fields are plain
    strings and not enums, because a row that breaks the contract must still be held, to be quarantined with a reason.
    """

    source: str
    row: int
    id: str
    task: str
    domain: str
    kind: str
    origin: str
    images: tuple[str, ...]
    """sha256 of each image's bytes, in the order of the `<image>` marks."""
    turns: tuple[Turn, ...]
    templated: bool
    """True: the first user turn is bare input, to which `render` adds one of the task's instructions."""
    language: str = ""
    """What the conversation is written in, as BCP 47 names it (`en`, `zh`); empty where neither row nor source says."""


SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("task", pa.string()),
        ("domain", pa.string()),
        ("kind", pa.string()),
        ("origin", pa.string()),
        ("images", pa.list_(pa.string())),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("templated", pa.bool_()),
        ("language", pa.string()),
    ]
)


def write(path: Path, examples: Iterable[Example]) -> None:
    """Write `examples` as one Parquet file, as `write_table`."""
    write_table(path, table_of(examples))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of `SCHEMA` as one Parquet file, in a folder made for it; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Where a table was put together is no part of what it holds, but pages of a file end there.
    pq.write_table(table.combine_chunks(), path)


def table_of(examples: Iterable[Example]) -> pa.Table:
    """`examples` as an Arrow table of `SCHEMA`."""
    rows = list(examples)
    columns = {
        field.name: pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in SCHEMA
        if field.name != "turns"
    }
    return pa.table({**columns, "turns": turns_of([row.turns for row in rows])}).select(SCHEMA.names).cast(SCHEMA)


def turns_of(conversations: Sequence[Sequence[Turn]]) -> pa.ListArray:
    """The column `turns` of conversations, made as Arrow holds it: texts in one column, and beside it where each row ends.

    Raises:
        UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    ends = list(accumulate(map(len, conversations), initial=0))
    spoken = [turn for turns in conversations for turn in turns]
    roles, texts = (pa.array([getattr(turn, name) for turn in spoken], pa.string()) for name in ("role", "text"))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays([roles, texts], ["role", "text"]))


def read(path: Path) -> list[Example]:
    """The examples of a file that `write` made."""
    return examples_of(pq.read_table(path, columns=SCHEMA.names))


def examples_of(table: pa.Table) -> list[Example]:
    """The examples of a table that has the columns of `SCHEMA`, and perhaps more."""
    return [
        Example(**{**row, "images": tuple(row["images"]), "turns": tuple(Turn(**turn) for turn in row["turns"])})
        for row in table.select(SCHEMA.names).to_pylist()
    ]


def read_all(folder: Path) -> list[Example]:
    """The examples of all shards in `folder`, in their order."""
    return [example for shard in shards.of(folder) for example in read(shard)]
