"""Hold every row and its pictures to the data contract; a row that breaks it is quarantined under the expectation's name.

The contract is one Great Expectations suite over one table: a line per row, with what can be told of its conversation and
of its pictures as columns. An empty cell means that an expectation has nothing to say about a row.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Annotated, Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaSectionView
from pydantic import Field, NonNegativeInt, PositiveInt

from stages.corpus import example, ledger
from stages.corpus.decoding import Look, look
from stages.corpus.example import IMAGE, KINDS, ORIGINS
from stages.corpus.images import read_images, stores
from stages.corpus.ledger import Line
from stages.corpus.text import CONTROL, SPECIAL
from stages.pages import contract as page
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.progress import progress
from stages.running.section import Section


class Params(Section):
    """The numbers in the contract."""

    min_side: NonNegativeInt
    """Shortest side a picture may have, in pixels."""
    max_side: PositiveInt
    """Longest side a picture may have, in pixels; a larger one is not even decoded."""
    max_answer_words: PositiveInt
    """Longest answer, in whitespace-separated words."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)]
    """Share of a source's rows, 0 to 1, above which the run stops: then the source is at fault, and not some rows."""


WORD = r"[^\s\p{Z}\p{C}]+"
"""A run of characters that can be seen: an answer of exotic spaces is empty too."""
EXAMPLES_SHOWN = 3
"""Rows the page shows of each broken expectation."""


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


def validate(params: Params, ingested: Path, validated: Out) -> None:
    """Hold all ingested rows to the contract."""
    # A name that begins with a dot is what a killed run left behind, half written.
    paths = sorted(ingested.glob("[!.]*/examples.parquet"))
    rows = pa.concat_tables([pq.read_table(path, columns=example.SCHEMA.names) for path in paths] or [_no_rows()])
    if not len(rows):
        raise ValueError(f"no source in {ingested} has a row that could be read; its ledger.parquet says why of each")
    suite = contract(params)
    seen = looks(ingested, rows, params.max_side)
    result = run_suite(suite, facts(rows, seen))
    broken = broken_rows(result)

    too_many = excess(params, rows["source"].to_pylist(), broken)
    if too_many:
        _write_page(WORK / "validate" / "contract.html", ingested, rows, seen, suite, broken)
        raise ValueError(f"{too_many}\n  the rows, with their pictures: {WORK / 'validate' / 'contract.html'}")

    validated.mkdir(parents=True)
    pq.write_table(rows.filter(pa.array([number not in broken for number in range(len(rows))])), validated / "examples.parquet")
    pq.write_table(quarantine(rows, broken), validated / "quarantine.parquet")
    ledger.write(validated / "ledger.parquet", lines(rows, broken))
    _write_page(validated / "contract.html", ingested, rows, seen, suite, broken)
    page.write_docs(validated / "docs" / "index.html", data_docs(result))


def looks(ingested: Path, rows: pa.Table, max_side: int) -> dict[str, Look]:
    """A look at every picture of the rows, once each."""
    wanted = set(pc.list_flatten(rows["images"]).to_pylist())
    found = {
        digest: look(content, max_side)
        for digest, content in progress(read_images(stores(ingested), wanted), "validate", "picture", len(wanted))
    }
    assert found.keys() == wanted, f"{len(wanted - found.keys())} pictures of the rows are in no store"
    return found


def facts(rows: pa.Table, seen: Mapping[str, Look]) -> pd.DataFrame:
    """The table that the suite judges: a line per row."""
    number = len(rows)
    turns = rows["turns"].combine_chunks()
    flat = turns.flatten()
    of_row = pc.list_parent_indices(turns).to_numpy()
    role, text = flat.field("role"), flat.field("text")
    is_user = pc.equal(role, "user").to_numpy(zero_copy_only=False)
    is_answer = pc.equal(role, "assistant").to_numpy(zero_copy_only=False)
    words = pc.count_substring_regex(text, WORD).to_numpy()
    words_beside_marks = pc.count_substring_regex(pc.replace_substring(text, IMAGE, ""), WORD).to_numpy()
    marks = pc.count_substring(text, IMAGE).to_numpy()
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    first = np.zeros(len(flat), dtype=bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    templated = rows["templated"].to_numpy()[of_row]

    def count(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(of_row[chosen], minlength=number)

    longest = np.zeros(number, dtype=np.int64)
    np.maximum.at(longest, of_row[is_answer], words[is_answer])
    letters = pc.if_else(pc.equal(role, "user"), "u", pc.if_else(pc.equal(role, "assistant"), "a", "?"))
    lists = pa.array(offsets, pa.int32())
    kinds = rows["kind"].to_pylist()
    spoken = _Spoken(text.to_pylist(), is_user, is_answer, offsets)
    return pd.DataFrame(
        {
            "task": rows["task"].to_pandas(),
            "kind": rows["kind"].to_pandas(),
            "origin": rows["origin"].to_pandas(),
            "roles": pc.binary_join(pa.ListArray.from_arrays(lists, letters), "").to_pandas(),
            "empty_answers": count(is_answer & (words == 0)),
            "empty_questions": count(is_user & (words_beside_marks == 0) & ~(first & templated)),
            "longest_answer_words": longest,
            "text": pc.binary_join(pa.ListArray.from_arrays(lists, text), "\n").to_pandas(),
            "marks": np.bincount(of_row, weights=marks * is_user, minlength=number).astype(np.int64),
            "pictures": pc.list_value_length(rows["images"]).to_numpy(),
            "marks_in_answers": np.bincount(of_row, weights=marks * is_answer, minlength=number).astype(np.int64),
            **_picture_facts(rows["images"].to_pylist(), seen),
            "judgement": _each(kinds, "judgement", spoken.first_answer),
            "choice_is_option": _each(kinds, "choice", lambda row: is_option(spoken.questions(row), spoken.first_answer(row))),
            "boxes_within": _each(kinds, "referring", lambda row: boxes_within(spoken.all(row))),
        }
    )


@dataclass(frozen=True)
class _Spoken:
    """Texts of single rows, for the expectations that only a few kinds of rows have."""

    texts: list[str]
    is_user: np.ndarray
    is_answer: np.ndarray
    offsets: np.ndarray

    def _of(self, row: int, chosen: np.ndarray) -> list[str]:
        turns = range(self.offsets[row], self.offsets[row + 1])
        return [self.texts[turn] for turn in turns if chosen[turn]]

    def first_answer(self, row: int) -> str | None:
        return next(iter(self._of(row, self.is_answer)), None)

    def questions(self, row: int) -> str:
        return "\n".join(self._of(row, self.is_user))

    def all(self, row: int) -> str:
        return "\n".join(self.texts[self.offsets[row] : self.offsets[row + 1]])


def _each(kinds: Sequence[str], kind: str, fact: Callable[[int], object]) -> pd.Series:
    return pd.Series([fact(row) if of == kind else None for row, of in enumerate(kinds)], dtype=object)


def _picture_facts(pictures: Sequence[Sequence[str]], seen: Mapping[str, Look]) -> dict[str, pd.Series]:
    """Of each row's pictures the worst: whether all are whole, the shortest and the longest side."""
    whole: list[bool | None] = []
    shortest: list[int | None] = []
    longest: list[int | None] = []
    for digests in pictures:
        found = [seen[digest] for digest in digests]
        verdicts = [one.whole for one in found if one.whole is not None]
        sides = [side for one in found for side in (one.width, one.height) if side is not None]
        whole.append(all(verdicts) if verdicts else None)
        shortest.append(min(sides, default=None))
        longest.append(max(sides, default=None))
    return {
        "pictures_whole": pd.Series(whole, dtype=object),
        "shortest_side": pd.Series(shortest, dtype=float),
        "longest_side": pd.Series(longest, dtype=float),
    }


OPTIONS = re.compile(r"^\s*options:(.*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
BRACKETS = re.compile(r"\[([^\[\]]*\d[^\[\]]*)\]")


def is_option(question: str, answer: str | None) -> bool | None:
    """Whether `answer` stands among the options that follow `Options:`; None where the question has no such list."""
    found = OPTIONS.search(question)
    if found is None or answer is None:
        return None
    return _folded(answer).rstrip(".") in _folded(found[1])


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def boxes_within(text: str) -> bool | None:
    """Whether all bracketed numbers in `text` are boxes inside the picture; None where there are none."""
    groups = BRACKETS.findall(text)
    return all(_is_box(group) for group in groups) if groups else None


def _is_box(group: str) -> bool:
    try:
        sides = [float(part) for part in group.split(",")]
    except ValueError:
        return False
    if len(sides) != 4:
        return False
    x1, y1, x2, y2 = sides
    return 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1


def run_suite(suite: Mapping[str, Expectation], table: pd.DataFrame) -> ExpectationSuiteValidationResult:
    """What Great Expectations finds, in a context that lives in memory and writes nothing."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    for name, expectation in suite.items():
        expectation.meta = {"name": name}
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    definition = gx.ValidationDefinition(
        name="contract",
        data=batch,
        suite=context.suites.add(gx.ExpectationSuite(name="contract", expectations=list(suite.values()))),
    )
    result = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": table}, result_format={"result_format": "COMPLETE"}
    )
    for one in result.results:
        # Great Expectations reports a crash of its own as a failed expectation.
        assert not _crashed(one.exception_info), f"{_name(one)} could not be evaluated: {one.exception_info}"
    order = list(suite)
    result.results.sort(key=lambda one: order.index(_name(one)))
    assert [_name(one) for one in result.results] == order, "expectations got lost on the way through the suite"
    return result


def _name(result: ExpectationValidationResult) -> str:
    assert result.expectation_config is not None
    return str(result.expectation_config.meta["name"])


def _crashed(info: Mapping[str, Any]) -> bool:
    return info.get("raised_exception", True)


def broken_rows(result: ExpectationSuiteValidationResult) -> dict[int, list[str]]:
    """The number of every row that breaks the contract → the expectations it breaks, in the suite's order."""
    broken: dict[int, list[str]] = defaultdict(list)
    for one in result.results:
        for number in one.result.get("unexpected_index_list") or []:
            broken[int(number)].append(_name(one))
    return dict(broken)


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


def _write_page(
    path: Path,
    ingested: Path,
    rows: pa.Table,
    seen: Mapping[str, Look],
    suite: Mapping[str, Expectation],
    broken: Mapping[int, Sequence[str]],
) -> None:
    by_name: dict[str, list[int]] = {name: [] for name in suite}
    for number in sorted(broken):
        for name in broken[number]:
            by_name[name].append(number)
    page.write_contract(
        path,
        stores(ingested),
        rows=len(rows),
        passed=len(rows) - len(broken),
        clauses=[
            page.Clause(
                name=name,
                meaning=expectation.description or name,
                failed=len(by_name[name]),
                examples=example.examples_of(rows.take(pa.array(by_name[name][:EXAMPLES_SHOWN], pa.int64()))),
            )
            for name, expectation in suite.items()
        ],
        # What did not decode is not given to a decoder again: it may be a bomb, or a program in a picture's clothes.
        showable={digest for digest, one in seen.items() if one.whole},
    )


def _no_rows() -> pa.Table:
    return example.SCHEMA.empty_table()


def data_docs(result: ExpectationSuiteValidationResult) -> list[str]:
    """The sections of Great Expectations' own page about a run, without its clocks."""
    meta: Any = result.meta
    meta["run_id"] = RunIdentifier(run_name="validate", run_time=datetime(2000, 1, 1, tzinfo=UTC))
    for name in ("batch_markers", "validation_id", "validation_time", "active_batch_definition"):
        meta.pop(name, None)
    for one in result.results:
        for name in ("unexpected_index_list", "unexpected_index_query", "unexpected_list"):
            one.result.pop(name, None)
        one.result = _escaped(one.result)
        if one.expectation_config is not None and one.expectation_config.description:
            one.expectation_config.description = escape(one.expectation_config.description)
    view: Any = DefaultJinjaSectionView()
    document = ValidationResultsPageRenderer().render(result)
    sections = [
        view.render({"section": section.to_json_dict(), "section_loop": {"index": number}})
        for number, section in enumerate(document.sections)
    ]
    # Every render gives its foldable parts new random names.
    return [re.sub(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", section) for section in sections]


def _escaped(value: Any) -> Any:
    """Texts in a result made safe to show: Great Expectations' templates put data into the page as it is."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {name: _escaped(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(one) for one in value]
    return value


if __name__ == "__main__":
    command.run(validate)
