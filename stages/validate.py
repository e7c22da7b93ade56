"""Hold every row and its pictures to the data contract; a row that breaks it is quarantined under the expectation's name.

The contract is one Great Expectations suite over one table: a line per row, with what can be told of its conversation and
of its pictures as columns. An empty cell means that an expectation has nothing to say about a row.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import great_expectations.expectations as gxe
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from stages.corpus import example, ledger, shards
from stages.corpus.decoding import MAX_SIDE
from stages.corpus.example import IMAGE, KINDS, ORIGINS
from stages.corpus.facts import facts
from stages.corpus.images import read_looks, stores
from stages.corpus.ledger import Line
from stages.corpus.suite import broken_rows, run_suite
from stages.corpus.text import CONTROL, SPECIAL
from stages.pages.contract import write_contract
from stages.pages.data_docs import write_data_docs
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.section import Section


def _that_can_be_served(side: int) -> int:
    if side > MAX_SIDE:
        raise ValueError(
            f"must be at most {MAX_SIDE}: a registered model refuses larger pictures (MAX_SIDE in stages/models/served.py), "
            "and register's proof, which asks it about held-out ones, would fail"
        )
    return side


class Params(Section):
    """The numbers in the contract."""

    min_side: NonNegativeInt
    """Shortest side a picture may have, in pixels."""
    max_side: Annotated[PositiveInt, AfterValidator(_that_can_be_served)]
    """Longest side a picture may have, in pixels, at most that of a served picture; a larger one is not even decoded."""
    max_answer_words: PositiveInt
    """Longest answer, in whitespace-separated words."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)]
    """Share of a source's rows, 0 to 1, above which the run stops: then the source is at fault, and not some rows."""


def validate(params: Params, ingested: Path, validated: Out) -> None:
    """Hold all ingested rows to the contract."""
    # A name that begins with a dot is what a killed run left behind, half written.
    folders = sorted(ingested.glob("[!.]*/examples"))
    paths = {shards.name(int(path.stem), folder.parent.name): path for folder in folders for path in shards.of(folder)}
    tables = [pq.read_table(path, columns=example.SCHEMA.names) for path in paths.values()]
    rows = pa.concat_tables(tables or [example.SCHEMA.empty_table()])
    if not len(rows):
        raise ValueError(f"no source in {ingested} has a row that could be read; its ledger.parquet says why of each")
    suite = contract(params)
    seen = read_looks(stores(ingested))
    result = run_suite(suite, facts(rows, seen))
    broken = broken_rows(result)

    meanings = {name: expectation.description or name for name, expectation in suite.items()}
    write_page = partial(
        write_contract,
        stores=stores(ingested),
        rows=rows,
        meanings=meanings,
        broken=broken,
        # What did not decode is not given to a decoder again: it may be a bomb, or a program in a picture's clothes.
        showable={digest for digest, one in seen.items() if one.whole},
    )

    too_many = excess(params, rows["source"].to_pylist(), broken)
    if too_many:
        write_page(WORK / "validate" / "contract.html")
        raise ValueError(f"{too_many}\n  the rows, with their pictures: {WORK / 'validate' / 'contract.html'}")

    (validated / "examples").mkdir(parents=True)
    first = 0
    for name, table in zip(paths, tables, strict=True):
        sound = pa.array([number not in broken for number in range(first, first + len(table))], pa.bool_())
        pq.write_table(table.filter(sound), validated / "examples" / name)
        first += len(table)
    pq.write_table(quarantine(rows, broken), validated / "quarantine.parquet")
    ledger.write(validated / "ledger.parquet", lines(rows, broken))
    (validated / "contract.json").write_text(json.dumps(meanings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_page(validated / "contract.html")
    write_data_docs(validated / "docs" / "index.html", result)


def contract(params: Params) -> dict[str, Expectation]:
    """The expectations by name; a row that breaks several is quarantined under the first."""
    return {
        "task_is_named": gxe.ExpectColumnValueLengthsToBeBetween(
            column="task", min_value=1, description="Every row names its task."
        ),
        "kind_is_known": gxe.ExpectColumnValuesToBeInSet(
            column="kind", value_set=list(KINDS), description="The kind of the answer is one of the project's."
        ),
        "origin_is_known": gxe.ExpectColumnValuesToBeInSet(
            column="origin", value_set=list(ORIGINS), description="The answer's origin is human or synthesized."
        ),
        "roles_are_known": gxe.ExpectColumnValuesToMatchRegex(
            column="roles", regex="^[ua]+$", description="Only the user (u) and the assistant (a) speak."
        ),
        "user_speaks_first": gxe.ExpectColumnValuesToMatchRegex(
            column="roles", regex="^u", description="The user speaks first."
        ),
        "roles_alternate": gxe.ExpectColumnValuesToNotMatchRegex(
            column="roles", regex="uu|aa", description="User and assistant take turns."
        ),
        "assistant_speaks_last": gxe.ExpectColumnValuesToMatchRegex(
            column="roles", regex="a$", description="The last word is the assistant's."
        ),
        "answers_not_empty": gxe.ExpectColumnValuesToBeBetween(
            column="empty_answers", max_value=0, description="No answer is empty."
        ),
        "questions_not_empty": gxe.ExpectColumnValuesToBeBetween(
            column="empty_questions", max_value=0, description="No question is empty, unless render adds an instruction."
        ),
        "answers_not_too_long": gxe.ExpectColumnValuesToBeBetween(
            column="longest_answer_words",
            max_value=params.max_answer_words,
            description=f"No answer has more than {params.max_answer_words} words (validate.max_answer_words).",
        ),
        "text_has_no_control_characters": gxe.ExpectColumnValuesToNotMatchRegex(
            column="text", regex=CONTROL, description="Text is text: no NUL, no control characters."
        ),
        "text_has_no_special_tokens": gxe.ExpectColumnValuesToNotMatchRegex(
            column="text", regex=SPECIAL, description="No text holds a token that models take for a mark of their own."
        ),
        "one_mark_per_picture": gxe.ExpectColumnPairValuesToBeEqual(
            column_A="marks", column_B="pictures", description=f"The user's turns have one {IMAGE} for each picture."
        ),
        "no_mark_in_answers": gxe.ExpectColumnValuesToBeBetween(
            column="marks_in_answers", max_value=0, description=f"No answer holds {IMAGE}."
        ),
        "picture_decodes_whole": gxe.ExpectColumnValuesToBeInSet(
            column="pictures_whole", value_set=[True], description="Every picture decodes to its last pixel."
        ),
        "picture_not_too_small": gxe.ExpectColumnValuesToBeBetween(
            column="shortest_side",
            min_value=params.min_side,
            description=f"No picture has a side under {params.min_side} pixels (validate.min_side).",
        ),
        "picture_not_too_large": gxe.ExpectColumnValuesToBeBetween(
            column="longest_side",
            max_value=params.max_side,
            description=f"No picture has a side over {params.max_side} pixels (validate.max_side).",
        ),
        "judgement_is_yes_or_no": gxe.ExpectColumnValuesToMatchRegex(
            column="judgement", regex=r"^\W*(?:[Yy][Ee][Ss]|[Nn][Oo])\b", description="A judgement begins with Yes or No."
        ),
        "choice_is_an_option": gxe.ExpectColumnValuesToBeInSet(
            column="choice_is_option", value_set=[True], description="A choice is among the options of its question."
        ),
        "boxes_within_picture": gxe.ExpectColumnValuesToBeInSet(
            column="boxes_within", value_set=[True], description="Boxes are [x1, y1, x2, y2], 0 ≤ x1 ≤ x2 ≤ 1, y alike."
        ),
    }


def excess(params: Params, sources: Sequence[str], broken: Mapping[int, Sequence[str]]) -> str:
    """Why the run must stop: a line for each source of which too large a share is broken; else empty."""
    rows = Counter(sources)
    bad = Counter(sources[number] for number in broken)
    faults = []
    for source in sorted(bad):
        share = bad[source] / rows[source]
        if share <= params.max_quarantined:
            continue
        blamed = Counter(names[0] for number, names in broken.items() if sources[number] == source)
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(blamed.items(), key=lambda one: (-one[1], one[0])))
        faults.append(
            f"{bad[source]} of {rows[source]} rows of source {source!r} ({share:.1%}) break the data contract, more than "
            f"the {params.max_quarantined:.1%} allowed: {listed}"
        )
    if not faults:
        return ""
    where = "mend the source, or change validate.max_quarantined, or the limit the expectation names, in params.yaml"
    return "\n  ".join([*faults, where])


def quarantine(rows: pa.Table, broken: Mapping[int, Sequence[str]]) -> pa.Table:
    """The rows that break the contract, with the first expectation each breaks (`expectation`) and all (`broken`)."""
    numbers = sorted(broken)
    return (
        rows.take(pa.array(numbers, pa.int64()))
        .append_column("expectation", pa.array([broken[number][0] for number in numbers], pa.string()))
        .append_column("broken", pa.array([list(broken[number]) for number in numbers], pa.list_(pa.string())))
    )


def lines(rows: pa.Table, broken: Mapping[int, Sequence[str]]) -> list[Line]:
    """A ledger line for every row."""
    labels = rows.select(["source", "row", "id", "task"]).to_pylist()
    return [
        Line(**label, state="quarantined", reason=broken[number][0]) if number in broken else Line(**label, state=ledger.ON)
        for number, label in enumerate(labels)
    ]


if __name__ == "__main__":
    command.run(validate)
