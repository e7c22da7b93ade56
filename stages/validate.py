"""Hold every row and its pictures to the data contract; what a broken expectation means, stop, quarantine or warn, params say.

The contract is a Great Expectations suite over one table of numbers: a line per row, with what can be told of its conversation
and of its pictures. An empty cell means that an expectation has nothing to say about a row. A second suite judges a table with
a line per task; and against the last accepted corpus it is told how far this one has drifted, which is only a warning.

How rows are judged, a shard at a time: stages/corpus/judging.py.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import great_expectations.expectations as gxe
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from stages.corpus import example, ledger
from stages.corpus.decoding import MAX_SIDE
from stages.corpus.drift import Drift, drift, read_accepted
from stages.corpus.example import IMAGE, Example
from stages.corpus.facts import UNDECLARED
from stages.corpus.judging import Judged, Rules, Source, Verdict, judge, read_source, weigh, write_quarantine
from stages.corpus.suite import Findings, as_result, run_suite
from stages.corpus.tally import summary, tasks
from stages.pages.contract import Clause, Told, write_contract
from stages.pages.data_docs import write_data_docs
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.memo import Memo, place
from stages.running.section import Section

OF_ROWS = (
    "licence_allowed", "language_allowed", "task_is_named", "kind_is_known", "origin_is_known", "roles_are_known",
    "user_speaks_first", "roles_alternate", "assistant_speaks_last", "answers_not_empty", "questions_not_empty",
    "answers_say_something", "answers_not_too_long", "answers_within_characters", "questions_within_characters",
    "text_has_no_control_characters", "text_has_no_special_tokens", "one_mark_per_picture", "no_mark_in_answers",
    "not_too_many_pictures", "picture_decodes_whole", "picture_not_too_small", "picture_not_too_large",
    "judgement_is_yes_or_no", "choice_is_an_option", "boxes_within_picture", "id_is_its_own",
)  # fmt: skip
"""The expectations of single rows, in their order: a row that breaks several is quarantined under the first."""
OF_TASKS = ("task_has_rows", "median_answer_in_span", "long_answers_in_span", "yes_share_in_span", "answer_share_in_span")
"""The expectations of whole tasks."""
CHOSEN = ("licence_allowed", "language_allowed")
"""What a person chose to leave out says nothing about the quality of a source."""

Severity = Literal["stop", "quarantine", "warn"]


def _that_can_be_served(side: int) -> int:
    if side > MAX_SIDE:
        raise ValueError(
            f"must be at most {MAX_SIDE}: a registered model refuses larger pictures (MAX_SIDE in stages/models/served.py), "
            "and register's proof, which asks it about held-out ones, would fail"
        )
    return side


class Span(Section):
    """A number's least and most."""

    least: Annotated[float, Field(ge=0)]
    """It may not be under this."""
    most: Annotated[float, Field(ge=0)]
    """It may not be over this."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is over most ({self.most}), so nothing could hold to it")
        return self


class Tasks(Section):
    """The limits for a source's task, over its rows that go on."""

    min_rows: NonNegativeInt
    """Rows it has at least."""
    median_answer_words: Span
    """Median of the words in a row's answers, all turns together."""
    long_answer_words: Span
    """The words in a row's answers that 95 % of its rows do not exceed."""
    yes_share: Span
    """Of its judgements, the share that agree, 0 to 1."""
    yes_share_rows: PositiveInt
    """With fewer judgements than this, nothing is said about their Yes."""
    answer_share: Span
    """Of the words in its conversations, the share that stand in answers and so are learnt, 0 to 1."""


class Limits(Section):
    """Divergences above which a person should look: 0, the same shares, to 1, nothing in common."""

    task_mix: Annotated[float, Field(ge=0, le=1)]
    """Of the rows of each task."""
    kind_mix: Annotated[float, Field(ge=0, le=1)]
    """Of the rows of each kind."""
    answer_words: Annotated[float, Field(ge=0, le=1)]
    """Of the lengths of answers, in bins that double."""
    picture_sides: Annotated[float, Field(ge=0, le=1)]
    """Of the longest sides of pictures, in bins that double."""


class Against(Section):
    """Which corpus this one is compared with; what differs is a warning."""

    accepted: Annotated[str, Field(pattern=r"^[\w-]+$")] | None
    """A file of the folder `accepted`, without its `.json`: the summary.json of an accepted run. Null compares with none."""
    limits: Limits
    """How far is too far, in bits of Jensen-Shannon divergence."""


class Params(Section):
    """The numbers in the contract, and what it means to break it."""

    min_side: NonNegativeInt
    """Shortest side a picture may have, in pixels."""
    max_side: Annotated[PositiveInt, AfterValidator(_that_can_be_served)]
    """Longest side a picture may have, in pixels, at most that of a served picture; a larger one is not even decoded."""
    max_pictures: PositiveInt
    """Most pictures a row may have."""
    max_answer_words: PositiveInt
    """Longest answer, in whitespace-separated words."""
    max_answer_characters: PositiveInt
    """Longest answer, in characters: a megabyte may be one word, and a language without spaces has few."""
    max_question_characters: PositiveInt
    """Longest question, in characters."""
    placeholders: list[str]
    """Answers that say nothing, such as "the message is empty"; case and what stands between the words do not matter."""
    licences: list[str] | None
    """Licences of the sources that may be used, as ingest.sources declares them, `undeclared` for none; null allows all."""
    languages: list[str] | None
    """Languages of the rows that may be used, likewise; null allows all."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)]
    """Share of a source's rows, 0 to 1, that may be unreadable or quarantined; above it the run stops, because then the source
    is at fault, and not some rows. What licences and languages leave out does not count."""
    severity: dict[str, Severity]
    """What it means to break each expectation. stop: the run ends; quarantine: the row goes no further; warn: it is counted and
    goes on. A task is never quarantined."""
    tasks: Tasks
    """The limits for whole tasks."""
    drift: Against
    """The comparison with the last accepted corpus."""

    @field_validator("severity")
    @classmethod
    def _names_every_expectation(cls, given: dict[str, Severity]) -> dict[str, Severity]:
        known = [*OF_ROWS, *OF_TASKS]
        missing = [name for name in known if name not in given]
        strange = [name for name in given if name not in known]
        halves = [name for name in OF_TASKS if given.get(name) == "quarantine"]
        faults = [
            *([f"lacks {', '.join(missing)}"] if missing else []),
            *([f"names what is no expectation: {', '.join(strange)}; known are {', '.join(known)}"] if strange else []),
            *([f"{', '.join(halves)}: of a whole task there is only stop and warn"] if halves else []),
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return given


def validate(params: Params, ingested: Path, accepted: Path, validated: Out) -> None:
    """Hold all ingested rows to the contract; `accepted` is the folder of summaries of accepted corpora."""
    before = read_accepted(accepted, params.drift.accepted)
    # A name that begins with a dot is what a killed run left behind, half written.
    sources = [read_source(path.parent) for path in sorted(ingested.glob("[!.]*/examples"))]
    if not any(source.rows for source in sources):
        raise ValueError(f"no source in {ingested} has a row that could be read; its ledger.parquet says why of each")
    rules = rules_of(params)
    with Memo("validate", params.model_dump(exclude={"tasks", "drift", "max_quarantined"})) as memo:
        judged = list(judge(rules, sources, memo))
        verdict = weigh(rules, sources, judged)
        now = summary(verdict.counts, {source.name: source.about for source in sources})
        of_tasks = hold_tasks(params, verdict)
        told = Told(
            stopped=[*excess(params, sources, verdict), *forbidden(params, verdict, of_tasks)],
            rows=len(verdict.lines),
            quarantined=verdict.quarantined,
            warned=len(verdict.warnings),
            clauses=clauses(params, judged, verdict),
            task_clauses=of_tasks.clauses,
            tasks=of_tasks.table,
            drifts=drift(now, before, params.drift.limits.model_dump()) if before else None,
            accepted=params.drift.accepted or "",
            sources=about_sources(sources, verdict),
        )
        stores = [source.folder for source in sources]
        if told.stopped:
            stop(stores, told)
        (validated / "examples").mkdir(parents=True)
        for one in judged:
            place(one.examples, validated / "examples" / one.name)
        write_quarantine(validated / "quarantine.parquet", judged)
    ledger.write_table(validated / "ledger.parquet", verdict.lines)
    pq.write_table(verdict.warnings.to_arrow(), validated / "warnings.parquet")
    pq.write_table(of_tasks.table.to_arrow(), validated / "tasks.parquet")
    text = json.dumps({**now, "drift": _figures(told.drifts)}, ensure_ascii=False, indent=1, sort_keys=True)
    (validated / "summary.json").write_text(text + "\n", encoding="utf-8")
    meanings = {name: one.description or name for name, one in contract(params).items()}
    (validated / "contract.json").write_text(json.dumps(meanings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_contract(validated / "contract.html", stores, told)
    results = [
        as_result("rows", contract(params), verdict.findings),
        as_result("tasks", contract_of_tasks(params), of_tasks.findings),
    ]
    write_data_docs(validated / "docs" / "index.html", results)
    warn(told)


def stop(stores: Sequence[Path], told: Told) -> NoReturn:
    """End the run, with the page where no output is: the rows that ended it can be looked at."""
    page = WORK / "validate" / "contract.html"
    write_contract(page, stores, told)
    where = "mend the source, or change validate.max_quarantined, validate.severity, or the limit the expectation names"
    raise ValueError("\n  ".join([*told.stopped, f"{where}, in params.yaml", f"the rows, with their pictures: {page}"]))


def warn(told: Told) -> None:
    """Say what a person should look at on the page, though the run went well."""
    tasks = sum(clause.failed for clause in told.task_clauses)
    warnings = [
        *([f"{told.warned} warnings about rows"] if told.warned else []),
        *([f"{tasks} warnings about tasks"] if tasks else []),
        *(
            f"{one.name} is {one.divergence:.4f} bits from {told.accepted}, over {one.limit}"
            for one in told.drifts or []
            if one.too_far
        ),
    ]
    if warnings:
        print(f"validate: {'; '.join(warnings)} (contract.html shows them)", file=sys.stderr)


def rules_of(params: Params) -> Rules:
    """What `judging` takes of the contract and the params."""
    suite = contract(params)
    assert tuple(suite) == OF_ROWS, "an expectation has no name in OF_ROWS"
    return Rules(
        suite=suite,
        ends=tuple(name for name in suite if params.severity[name] != "warn"),
        placeholders=tuple(params.placeholders),
        licences=None if params.licences is None else tuple(params.licences),
        languages=None if params.languages is None else tuple(params.languages),
    )


def contract(params: Params) -> dict[str, Expectation]:
    """The expectations of single rows by name; a row that breaks several is quarantined under the first."""
    return {
        "licence_allowed": _none("refused_licence", f"The licence of the source is one of {_listed(params.licences)}."),
        "language_allowed": _none("refused_language", f"The language of the row is one of {_listed(params.languages)}."),
        "task_is_named": gxe.ExpectColumnValuesToBeBetween(
            column="task_characters", min_value=1, description="Every row names its task."
        ),
        "kind_is_known": _none("unknown_kind", "The kind of the answer is one of the project's."),
        "origin_is_known": _none("unknown_origin", "The answer's origin is human or synthesized."),
        "roles_are_known": _none("unknown_roles", "Only the user and the assistant speak."),
        "user_speaks_first": _none("first_not_user", "The user speaks first."),
        "roles_alternate": _none("not_in_turns", "User and assistant take turns."),
        "assistant_speaks_last": _none("last_not_assistant", "The last word is the assistant's."),
        "answers_not_empty": _none("empty_answers", "No answer is empty."),
        "questions_not_empty": _none("empty_questions", "No question is empty, unless render adds an instruction."),
        "answers_say_something": _none(
            "placeholder_answers", "No answer only says that there is none (validate.placeholders)."
        ),
        "answers_not_too_long": _at_most(
            "longest_answer_words", params.max_answer_words, "No answer has more than {} words (validate.max_answer_words)."
        ),
        "answers_within_characters": _at_most(
            "longest_answer_characters",
            params.max_answer_characters,
            "No answer has more than {} characters (validate.max_answer_characters).",
        ),
        "questions_within_characters": _at_most(
            "longest_question_characters",
            params.max_question_characters,
            "No question has more than {} characters (validate.max_question_characters).",
        ),
        "text_has_no_control_characters": _none("control_characters", "Text is text: no NUL, no control characters."),
        "text_has_no_special_tokens": _none(
            "special_tokens", "No text holds a token that models take for a mark of their own."
        ),
        "one_mark_per_picture": _none("marks_beside_pictures", f"The user's turns have one {IMAGE} for each picture."),
        "no_mark_in_answers": _none("marks_in_answers", f"No answer holds {IMAGE}."),
        "not_too_many_pictures": _at_most(
            "pictures", params.max_pictures, "No row has more than {} pictures (validate.max_pictures)."
        ),
        "picture_decodes_whole": _none("cut_pictures", "Every picture decodes to its last pixel."),
        "picture_not_too_small": gxe.ExpectColumnValuesToBeBetween(
            column="shortest_side",
            min_value=params.min_side,
            description=f"No picture has a side under {params.min_side} pixels (validate.min_side).",
        ),
        "picture_not_too_large": _at_most(
            "longest_side", params.max_side, "No picture has a side over {} pixels (validate.max_side)."
        ),
        "judgement_is_yes_or_no": _none("unclear_judgements", "A judgement begins with Yes or No, or says so in Chinese."),
        "choice_is_an_option": _none("choices_without_option", "A choice is among the options of its question."),
        "boxes_within_picture": _none("boxes_outside", "Boxes are [x1, y1, x2, y2], 0 ≤ x1 ≤ x2 ≤ 1, y alike."),
        "id_is_its_own": _none("repeated_id", "No earlier row of the source has the same id."),
    }


def contract_of_tasks(params: Params) -> dict[str, Expectation]:
    """The expectations of whole tasks by name."""
    limits = params.tasks
    return {
        "task_has_rows": gxe.ExpectColumnValuesToBeBetween(
            column="rows",
            min_value=limits.min_rows,
            description=f"A task has at least {limits.min_rows} rows (validate.tasks.min_rows).",
        ),
        "median_answer_in_span": _within(
            "median_answer_words", limits.median_answer_words, "The median of a task's answers is {} words"
        ),
        "long_answers_in_span": _within(
            "long_answer_words", limits.long_answer_words, "The 95 % quantile of a task's answers is {} words"
        ),
        "yes_share_in_span": _within("yes_share", limits.yes_share, "Of a task's judgements, a share of {} says Yes"),
        "answer_share_in_span": _within(
            "answer_share", limits.answer_share, "Of the words of a task's conversations, a share of {} is learnt"
        ),
    }


def _none(column: str, description: str) -> Expectation:
    """That a count is 0. As a set of one: Great Expectations compares a span value by value, in Python."""
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[0], description=description)


def _at_most(column: str, most: int, description: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, max_value=most, description=description.format(most))


def _within(column: str, span: Span, description: str) -> Expectation:
    told = f"{description.format(f'{span.least:g} to {span.most:g}')} (validate.tasks.{column})."
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=span.least, max_value=span.most, description=told)


def _listed(allowed: Sequence[str] | None) -> str:
    return "any" if allowed is None else ", ".join(allowed) or "none"


@dataclass(frozen=True)
class OfTasks:
    """What was found of all tasks."""

    table: pl.DataFrame
    """`tasks`, and `broken`: the expectations that each breaks."""
    findings: Findings
    clauses: list[Clause]


def hold_tasks(params: Params, verdict: Verdict) -> OfTasks:
    """All tasks held to their own contract."""
    table = tasks(verdict.counts, params.tasks.yes_share_rows)
    suite = contract_of_tasks(params)
    assert tuple(suite) == OF_TASKS, "an expectation has no name in OF_TASKS"
    numbers = table.drop("source", "task").cast(pl.Float64)
    findings, broken = run_suite(suite, numbers.to_pandas())
    names = [[name for name in suite if number in broken[name]] for number in range(len(table))]
    return OfTasks(
        table.with_columns(broken=pl.Series(names, dtype=pl.List(pl.String))),
        findings,
        [
            Clause(
                name,
                expectation.description or name,
                params.severity[name],
                _judged(findings[name]),
                len(broken[name]),
                (),
            )
            for name, expectation in suite.items()
        ],
    )


def excess(params: Params, sources: Sequence[Source], verdict: Verdict) -> list[str]:
    """Why the run must stop: a line for each source of which too large a share is unreadable or broken."""
    faults = []
    for source in sources:
        blamed = Counter({name: rows for name, rows in verdict.blamed[source.name].items() if name not in CHOSEN})
        left_out = verdict.blamed[source.name].total() - blamed.total()
        rows = source.rows + source.unreadable.total() - left_out
        blamed += source.unreadable
        if not rows or blamed.total() / rows <= params.max_quarantined:
            continue
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(blamed.items(), key=lambda one: (-one[1], one[0])))
        fault = "could not be read or break the data contract" if source.unreadable else "break the data contract"
        faults.append(
            f"{blamed.total()} of {rows} rows of source {source.name!r} ({blamed.total() / rows:.1%}) {fault}, more than "
            f"the {params.max_quarantined:.1%} allowed: {listed}"
        )
    return faults


def forbidden(params: Params, verdict: Verdict, of_tasks: OfTasks) -> list[str]:
    """Why the run must stop: a line for each broken expectation of which params say so."""
    rows = [
        f"{_told(by_source.total(), 'row')} {name}, which stops a run: {_counts(by_source)}"
        for name, by_source in verdict.broken.items()
        if by_source and params.severity[name] == "stop"
    ]
    tasks = [
        f"{_told(clause.failed, 'task')} {clause.name}, which stops a run: {next(_breaking(of_tasks, clause.name))} is one"
        for clause in of_tasks.clauses
        if clause.failed and clause.severity == "stop"
    ]
    return rows + tasks


def _told(number: int, what: str) -> str:
    return f"1 {what} breaks" if number == 1 else f"{number} {what}s break"


def _counts(by_source: Mapping[str, int]) -> str:
    return ", ".join(f"{rows} of {source!r}" for source, rows in sorted(by_source.items()))


def _breaking(of_tasks: OfTasks, name: str) -> Iterator[str]:
    for source, task, broken in of_tasks.table.select("source", "task", "broken").iter_rows():
        if name in broken:
            yield f"{task!r} of {source!r}"


def clauses(params: Params, judged: Sequence[Judged], verdict: Verdict) -> list[Clause]:
    """The expectations of rows as the page shows them, with the first rows that break each."""
    wanted: dict[int, set[int]] = {}
    for number, at in (one for ones in verdict.first.values() for one in ones):
        wanted.setdefault(number, set()).add(at)
    shown: dict[tuple[int, int], Example] = {}
    for number, places in sorted(wanted.items()):
        order = sorted(places)
        rows = pq.read_table(judged[number].path).take(pa.array(order, pa.int64()))
        shown.update(zip([(number, at) for at in order], example.examples_of(rows), strict=True))
    return [
        Clause(
            name,
            expectation.description or name,
            params.severity[name],
            _judged(verdict.findings[name]),
            verdict.broken[name].total(),
            [shown[one] for one in verdict.first[name]],
        )
        for name, expectation in contract(params).items()
    ]


def _judged(found: Mapping[str, Any]) -> int:
    return found["element_count"] - found["missing_count"]


def about_sources(sources: Sequence[Source], verdict: Verdict) -> list[dict[str, Any]]:
    """Each source as the page shows it."""
    return [
        {
            "name": source.name,
            "licence": source.about["licence"] or UNDECLARED,
            "language": source.about["language"] or UNDECLARED,
            "rows": source.rows + source.unreadable.total(),
            "unreadable": source.unreadable.total(),
            "quarantined": verdict.blamed[source.name].total(),
        }
        for source in sources
    ]


def _figures(drifts: Sequence[Drift] | None) -> dict[str, float] | None:
    return None if drifts is None else {one.name: round(one.divergence, 6) for one in drifts}


if __name__ == "__main__":
    command.run(validate)
