"""Hold every row and its pictures to the data contract; what a broken expectation means, stop, quarantine or warn, params say.

The contract is a Great Expectations suite over one table of numbers: a line per row, with what can be told of its conversation
and of its pictures. An empty cell means that an expectation has nothing to say about a row. A second suite judges a table with
a line per task; and against the last accepted corpus it is told how far this one has drifted, which is only a warning.

Rows are judged a shard at a time, by several processes, and a shard that an earlier run judged is not judged again.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import great_expectations.expectations as gxe
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from stages.corpus import example, ledger, shards
from stages.corpus.decoding import MAX_SIDE
from stages.corpus.drift import Drift, drift, read_accepted
from stages.corpus.example import IMAGE, Example
from stages.corpus.facts import UNDECLARED, declared, facts_of_pictures, facts_of_texts, hashed, refused, repeated
from stages.corpus.suite import Findings, as_result, merged, run_suite
from stages.corpus.tally import summary, tally, tasks, together
from stages.pages.contract import EXAMPLES_SHOWN, Clause, Told, write_contract
from stages.pages.data_docs import write_data_docs
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.memo import Memo, digest, place
from stages.running.progress import progress
from stages.running.section import Section
from stages.running.workers import mapped

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
    with Memo("validate", params.model_dump(exclude={"tasks", "drift", "max_quarantined"})) as memo:
        judged = list(judge(params, sources, memo))
        verdict = weigh(params, sources, judged)
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
            write_contract(WORK / "validate" / "contract.html", stores, told)
            where = "mend the source, or change validate.max_quarantined, validate.severity, or the limit the expectation names"
            raise ValueError(
                "\n  ".join([*told.stopped, f"{where}, in params.yaml"])
                + f"\n  the rows, with their pictures: {WORK / 'validate' / 'contract.html'}"
            )
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
    for figure in told.drifts or []:
        if figure.too_far:
            print(
                f"validate: {figure.name} is {figure.divergence:.4f} bits from {told.accepted}, over {figure.limit}",
                file=sys.stderr,
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


# What came in


@dataclass(frozen=True)
class Source:
    """One source, as `ingest` left it."""

    name: str
    folder: Path
    shards: list[Path]
    rows: int
    """Rows that could be read."""
    about: dict[str, str]
    """Its `licence` and `language`, empty where it declares none."""
    unreadable: Counter[str]
    """Rows that could not be read, by the name of the reason."""


def read_source(folder: Path) -> Source:
    """What lies in a source's folder below data/ingest."""
    paths = shards.of(folder / "examples")
    said = folder / "source.json"
    about = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else {}
    unreadable: Counter[str] = Counter()
    if (folder / "ledger.parquet").is_file():
        ended = pq.read_table(folder / "ledger.parquet", columns=["reason"], filters=[("state", "=", "unreadable")])
        unreadable.update(ledger.reason_name(reason) for reason in ended["reason"].to_pylist())
    return Source(
        name=folder.name,
        folder=folder,
        shards=paths,
        rows=shards.rows(folder / "examples"),
        about={name: declared(about, name) for name in ("licence", "language")},
        unreadable=unreadable,
    )


def surroundings(params: Params, source: Source) -> list[pl.DataFrame]:
    """What a row's own text does not say, a table a shard: its pictures, its licence and language, whether its id was there.

    Only narrow columns are read, and never a picture's bytes.
    """
    looks = _looks(source.folder)
    tables, ids = [], []
    for path in source.shards:
        has_language = "language" in pq.read_schema(path).names
        rows = pq.read_table(path, columns=["id", "images", *(["language"] if has_language else [])])
        own = pl.Series(rows["language"]) if has_language else pl.Series([""]).new_from_index(0, len(rows))
        language = pl.select(pl.when(own.fill_null("") == "").then(pl.lit(source.about["language"])).otherwise(own)).to_series()
        licence = pl.Series([source.about["licence"]]).new_from_index(0, len(rows))
        tables.append(
            facts_of_pictures(rows["images"], looks).with_columns(
                refused_licence=refused(licence, params.licences), refused_language=refused(language, params.languages)
            )
        )
        ids.append(hashed(rows["id"]))
    return [table.with_columns(repeated_id=again) for table, again in zip(tables, repeated(ids), strict=True)]


def _looks(folder: Path) -> pl.DataFrame:
    """What is known of a source's pictures, without their bytes."""
    columns = ["sha256", "width", "height", "whole"]
    parts = [pl.DataFrame(pq.read_table(shard, columns=columns)) for shard in shards.of(folder / "images")]
    empty = pl.DataFrame(schema={"sha256": pl.String, "width": pl.Int32, "height": pl.Int32, "whole": pl.Boolean})
    return pl.concat([empty, *parts]).unique("sha256", keep="first")


# One shard


@dataclass(frozen=True)
class Judged:
    """What became of a shard: files that are kept from run to run."""

    source: str
    name: str
    """The shard's file, among those of all sources."""
    path: Path
    """Where its rows came from."""
    examples: Path
    """The rows that go on."""
    quarantined: Path
    """The others, as `quarantine.parquet` has them."""
    verdict: Path
    """A line per row, in the rows' order: `Judge`."""


class Written(NamedTuple):
    """The files of `Judged`, as bytes."""

    examples: bytes
    quarantined: bytes
    verdict: bytes


FEW = 5
"""Shards that are judged in the time that another process takes to start."""
FINDINGS = b"great_expectations"


class Judge:
    """Holds one shard after another to the contract."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.suite = contract(params)
        self.quarantines = [name for name in OF_ROWS if params.severity[name] != "warn"]
        assert tuple(self.suite) == OF_ROWS, "an expectation has no name in OF_ROWS"

    def __call__(self, piece: tuple[bytes, pa.Table]) -> Written:
        """The shard's files, from its Parquet file and its `surroundings`.

        The verdict has what names a row, what `tally` counts, and `broken`: bit k for the k-th expectation of `OF_ROWS`.
        """
        content, around = piece
        rows = pq.read_table(pa.BufferReader(content))
        facts = pl.concat([facts_of_texts(rows, self.params.placeholders), pl.DataFrame(around)], how="horizontal")
        columns = [expectation.configuration.kwargs["column"] for expectation in self.suite.values()]
        findings, broken = run_suite(self.suite, facts.select(columns).to_pandas())
        bits = np.zeros(len(rows), np.uint64)
        for number, name in enumerate(OF_ROWS):
            bits[broken[name]] |= np.uint64(1 << number)
        out = (bits & _mask(self.quarantines)) != 0
        verdict = pl.DataFrame(rows.select(["source", "row", "id", "task", "kind"])).with_columns(
            facts.select("answer_words", "words", "says_yes", "longest_side"), broken=pl.Series(bits)
        )
        return Written(
            _parquet(rows.select(example.SCHEMA.names).filter(pa.array(~out))),
            _parquet(self._quarantine(rows.select(example.SCHEMA.names).filter(pa.array(out)), bits[out])),
            _parquet(verdict.to_arrow().replace_schema_metadata({FINDINGS: json.dumps(findings)})),
        )

    def _quarantine(self, rows: pa.Table, bits: np.ndarray) -> pa.Table:
        """Rows that go no further, with the first expectation for which (`expectation`) and all that each breaks (`broken`)."""
        names = [[name for number, name in enumerate(OF_ROWS) if int(one) >> number & 1] for one in bits]
        firsts = [next(name for name in broken if name in self.quarantines) for broken in names]
        return rows.append_column("expectation", pa.array(firsts, pa.string())).append_column(
            "broken", pa.array(names, pa.list_(pa.string()))
        )


def judge(params: Params, sources: Sequence[Source], memo: Memo) -> Iterator[Judged]:
    """Every shard of every source, judged now or in an earlier run; several at once, and one held at a time."""
    pieces: dict[tuple[str, str], tuple[Path, pa.Table]] = {}
    kept: list[tuple[Source, Path, tuple[str, str]]] = []
    for source in sources:
        for path, around in zip(source.shards, surroundings(params, source), strict=True):
            key = digest(path), _digest_of(around)
            kept.append((source, path, key))
            if any(memo.recall(key, name) is None for name in Written._fields):
                pieces[key] = path, around.to_arrow()
    work = ((path.read_bytes(), around) for path, around in pieces.values())
    # Of few shards this process alone judges all, before others have imported their libraries.
    new = mapped(Judge, (params,), work, processes=1 if len(pieces) <= FEW else None)
    for key, written in zip(pieces, progress(new, "validate", "shard", len(pieces)), strict=True):
        for name, content in written._asdict().items():
            memo.keep(partial(_write, content), key, name)
    for source, path, key in kept:
        found = {name: memo.recall(key, name) for name in Written._fields}
        files = {name: path for name, path in found.items() if path is not None}
        assert len(files) == len(found), f"what was kept of {path} is gone: another run removed it"
        yield Judged(source.name, shards.name(int(path.stem), source.name), path, **files)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _digest_of(around: pl.DataFrame) -> str:
    return digest(*(column.fill_null(-1).to_numpy().tobytes() for column in around.iter_columns()))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink)
    return sink.getvalue().to_pybytes()


def _mask(names: Sequence[str]) -> np.uint64:
    return np.uint64(sum(1 << OF_ROWS.index(name) for name in names))


# All of them


@dataclass
class Verdict:
    """What was found of all rows."""

    lines: pa.Table
    """The ledger."""
    warnings: pl.DataFrame
    """A line per row that goes on and expectation it breaks: source, row, id, task, expectation."""
    counts: pl.DataFrame
    """The rows that go on, counted (`tally`)."""
    findings: Findings
    """What Great Expectations found."""
    broken: dict[str, Counter[str]] = field(default_factory=dict)
    """Expectation → source → rows that break it."""
    blamed: dict[str, Counter[str]] = field(default_factory=dict)
    """Source → expectation → rows that are quarantined under it."""
    first: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Expectation → the first rows that break it, by the number of their shard and their place in it."""

    @property
    def quarantined(self) -> int:
        """Rows that go no further."""
        return sum(blamed.total() for blamed in self.blamed.values())


def weigh(params: Params, sources: Sequence[Source], judged: Sequence[Judged]) -> Verdict:
    """The verdicts on all shards as one."""
    ends = [name for name in OF_ROWS if params.severity[name] != "warn"]
    warns = [name for name in OF_ROWS if params.severity[name] == "warn"]
    lines, warnings, counts, findings = [], [], [], []
    broken: dict[str, Counter[str]] = {name: Counter() for name in OF_ROWS}
    blamed: dict[str, Counter[str]] = {source.name: Counter() for source in sources}
    first: dict[str, list[tuple[int, int]]] = {name: [] for name in OF_ROWS}
    for number, one in enumerate(judged):
        table = pq.read_table(one.verdict)
        findings.append(json.loads(table.schema.metadata[FINDINGS]))
        rows = pl.DataFrame(table)
        reason = pl.coalesce(*(pl.when(_breaks(name)).then(pl.lit(name)) for name in ends), pl.lit(""))
        rows = rows.with_columns(reason=reason, place=pl.int_range(pl.len()))
        lines.append(
            rows.select(
                "source",
                "row",
                "id",
                "task",
                "reason",
                state=pl.when(pl.col("reason") == "").then(pl.lit(ledger.ON)).otherwise(pl.lit("quarantined")),
                file=pl.lit(""),
            )
        )
        blamed[one.source].update(dict(rows.filter(pl.col("reason") != "")["reason"].value_counts(sort=True).iter_rows()))
        goes_on = rows.filter(pl.col("reason") == "")
        counts.append(tally(goes_on))
        for name in warns:
            warnings.append(goes_on.filter(_breaks(name)).select("source", "row", "id", "task", expectation=pl.lit(name)))
        for name in OF_ROWS:
            places = rows.filter(_breaks(name))["place"]
            if len(places):
                broken[name][one.source] += len(places)
                first[name] += [(number, place) for place in places.head(EXAMPLES_SHOWN - len(first[name]))]
    schema = {"source": pl.String, "row": pl.Int64, "id": pl.String, "task": pl.String, "expectation": pl.String}
    return Verdict(
        lines=pl.concat(lines).to_arrow(),
        warnings=pl.concat([pl.DataFrame(schema=schema), *warnings]).sort("source", "row", maintain_order=True),
        counts=together(counts),
        findings=merged(findings),
        broken=broken,
        blamed=blamed,
        first=first,
    )


def _breaks(name: str) -> pl.Expr:
    return (pl.col("broken") & pl.lit(1 << OF_ROWS.index(name), pl.UInt64)) != 0


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


def write_quarantine(path: Path, judged: Sequence[Judged]) -> None:
    """All rows that go no further, a shard after the other."""
    tables = (pq.read_table(one.quarantined) for one in judged)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as file:
        file.write_table(first)
        for table in tables:
            if len(table):
                file.write_table(table)


def _figures(drifts: Sequence[Drift] | None) -> dict[str, float] | None:
    return None if drifts is None else {one.name: round(one.divergence, 6) for one in drifts}


if __name__ == "__main__":
    command.run(validate)
