"""Choose the rows each tuning stage learns from, keep pictures apart for testing, and say why each other row was dropped.

The order of the decisions, each on what the one before left: rows no stage's sources name (`unused`), duplicates (exact, then
near), rows that a benchmark contaminates, the split by what pictures show, and of train's rows the tasks, the coreset, the
quotas, Yes against No and the cap per task; last the numbers of rows for `connect` and `align`.

Every draw ranks rows, tasks or pictures by a seeded hash of their content. So more data never reshuffles what was chosen: a
picture held out once stays held out, and a smaller number of rows is a part of a larger one.

Each shard is met twice: once to take its rows' marks (`stages/corpus/marks.py`), on which all decisions are made, and once to
write those of its rows that were chosen.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from stages.benchmarks.kept_out import kept_out
from stages.corpus import contamination, draws, duplicates, example, ledger, shards
from stages.corpus.contamination import Contamination
from stages.corpus.coreset import Coreset, Marker, concepts_of, coreset, coverage, with_keywords
from stages.corpus.example import KINDS
from stages.corpus.marks import Marks, Names, Numbers, gathered, looking
from stages.corpus.pictures import read_looks, stores
from stages.corpus.twins import Twins, no_twins, twins
from stages.running import command
from stages.running.command import WORK, Out
from stages.running.memo import Memo, digest, place
from stages.running.section import Section
from stages.running.workers import mapped

Sources = Annotated[list[str], Field(min_length=1)]
"""Names of sources, as in ingest.sources; each feeds one tuning stage, and no tuning stage can learn from none."""
Quota = NonNegativeInt | Annotated[float, Field(ge=0, le=1)]
"""A whole number: at most so many rows. A number with a point, 0.0 to 1.0: at most that share of those there are."""


class Connect(Section):
    """What stage 0 learns from."""

    sources: Sources
    """Whose rows it may take."""
    rows: PositiveInt
    """At most so many rows, over all its sources."""


class Quotas(Section):
    """How many rows of a domain, or with a kind of answer, stage 1 may take; names without a quota are not limited.

    Both hold at once: first each domain's rows are drawn, all kinds of answers in proportion; then, of what is left, each
    kind's, all domains in proportion. So a kind may get fewer rows than its quota where the domains' quotas leave fewer.
    """

    domains: dict[str, Quota] | None
    """Domain: its quota. null: none is limited."""
    kinds: dict[str, Quota] | None
    """Kind of answer: its quota. null: none is limited."""

    @field_validator("kinds")
    @classmethod
    def _are_known(cls, kinds: dict[str, Quota] | None) -> dict[str, Quota] | None:
        if strange := sorted(set(kinds or ()) - set(KINDS)):
            raise ValueError(f"no such kind of answer: {', '.join(strange)}; known: {', '.join(KINDS)}")
        return kinds


class Train(Section):
    """What stage 1 learns from, and is tested on."""

    sources: Sources
    """Whose rows it takes; their pictures are split into training and held-out ones."""
    tasks: PositiveInt | None
    """Of so many tasks, drawn; those of a smaller number are among those of a larger one. null: of all."""
    rows_per_task: PositiveInt
    """At most so many rows of each task."""
    coreset: Coreset
    """Of the chosen tasks' rows, before the quotas."""
    quotas: Quotas
    """By domain and by kind of answer."""


class Align(Section):
    """What stage 2 learns from."""

    sources: Sources
    """Whose rows it may take; how many is align.dose."""


class Duplicates(Section):
    """Which rows count as said before, besides those that are so to the byte."""

    near: bool
    """Whether a row counts that reads like an earlier one (but for case, punctuation and space) behind pictures that show the
    same (resized, compressed again, a little brighter). Pictures that show the same then also lie on one side of the split."""
    distance: Annotated[int, Field(ge=0, le=16)]
    """Bits of 64 in which the perceptual hashes of two pictures may differ that show the same; read only with near."""


class Params(Section):
    """How rows are chosen."""

    seed: int
    """Draws the split and every choice."""
    duplicates: Duplicates
    """Rows that are said before."""
    contamination: Contamination
    """Rows that a benchmark asks about."""
    connect: Connect
    """Stage 0."""
    train: Train
    """Stage 1."""
    align: Align
    """Stage 2."""
    balance: bool
    """Whether every judgement task keeps as many Yes as No."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """Share of the pictures of train's sources kept for testing, 0 to 1; all rows behind one, of any source, go with it."""

    @model_validator(mode="after")
    def _a_source_feeds_one_stage(self) -> Self:
        stage_of: dict[str, str] = {}
        for stage, sources in self.sources.items():
            for source in sources:
                if stage_of.setdefault(source, stage) != stage:
                    raise ValueError(
                        f"{stage}.sources and {stage_of[source]}.sources both name {source!r}; a source feeds one tuning stage"
                        ", so that each of its rows ends in one state"
                    )
        return self

    @property
    def sources(self) -> dict[str, list[str]]:
        """The sources of each tuning stage, in the stages' order: where a row is said twice, the earlier source keeps it."""
        return {"connect": self.connect.sources, "train": self.train.sources, "align": self.align.sources}


def curate(params: Params, validated: Path, ingested: Path, benchmarks: Path, dose: str, curated: Out) -> None:
    """Select from the rows that passed the contract, without those that `benchmarks` ask about.

    `dose`, how many stage-2 rows, is a value of `align`'s section and comes as a word of the command: whoever asks what the
    dose does (`dvc exp run -S align.dose=300`) asks it of align, and not of the stage that happens to count the rows.
    """
    if not dose.isdecimal() or int(dose) == 0:
        raise ValueError(f"align.dose must be a whole number of rows, at least 1, got {dose!r}; change it in params.yaml")
    check_sources(params, pc.unique(pq.read_table(validated / "ledger.parquet", columns=["source"])["source"]).to_pylist())
    paths = shards.of(validated / "examples")
    names = [digest(path) for path in paths]
    marks = read_marks(params, paths, names)
    found = read_twins(params, ingested, marks)

    chosen = Choice(marks)
    drop_duplicates(chosen, params, found)
    contaminated = drop_contaminated(chosen, params, benchmarks, ingested, paths, names)
    held = hold_out(chosen, params, found)
    choose_for_train(chosen, params, benchmarks, paths, names)
    choose_for_connect(chosen, params)
    choose_for_align(chosen, params, int(dose))

    curated.mkdir(parents=True)
    write_chosen(chosen, params, paths, names, curated)
    pq.write_table(contaminated.to_arrow().cast(contamination.SCHEMA), curated / "contaminated.parquet")
    chosen.counts["pictures"] = {"shown": len(marks.sha256), "held_out": int(held.sum()), "compared": found.compared}
    text = json.dumps(chosen.counts, ensure_ascii=False, indent=1) + "\n"
    (curated / "choices.json").write_text(text, encoding="utf-8")


class Choice:
    """What has been decided of every row so far, and what each choice wanted, met and took."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.left = np.ones(len(marks), dtype=bool)
        """Whether no decision has ended a row yet."""
        self.state = np.zeros(len(marks), dtype=np.int8)
        """Places in `ledger.STATES` behind `ON`."""
        self.reason = np.zeros(len(marks), dtype=np.int64)
        """Places in `reasons`, one after the other."""
        self.reasons = [pa.array([""], pa.string())]
        self.counts: dict[str, Any] = {}

    def end(self, rows: Numbers, state: str, reason: str | pa.Array) -> None:
        """End `rows`, which are left, in `state`; `reason` is one for all or one for each."""
        assert self.left[rows].all(), f"a row would end a second time, in {state}"
        first = sum(map(len, self.reasons))
        self.reasons.append(pa.array([reason], pa.string()) if isinstance(reason, str) else reason.cast(pa.string()))
        self.left[rows] = False
        self.state[rows] = STATES.index(state)
        self.reason[rows] = first if isinstance(reason, str) else first + np.arange(len(rows))

    def end_named(self, rows: pl.DataFrame, state: str) -> None:
        """End the rows named by `source` and `row`, each with its `reason`, as far as they are left."""
        marks = self.marks
        number = {name: place for place, name in enumerate(marks.source.known)}
        left = np.flatnonzero(self.left)
        mine = pl.DataFrame({"of": marks.source.of[left], "row": marks.row[left], "number": left})
        theirs = rows.select(
            of=pl.col("source").replace_strict(number, default=-1, return_dtype=pl.Int32), row="row", reason="reason"
        )
        ended = mine.join(theirs, on=["of", "row"], maintain_order="left")
        self.end(ended["number"].to_numpy(), state, ended["reason"].to_arrow())

    def of(self, sources: Sequence[str]) -> Numbers:
        """The rows of `sources` that are left."""
        return np.flatnonzero(self.left & self.among(sources))

    def among(self, sources: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each row is of one of `sources`."""
        return np.isin(self.marks.source.of, [place for place, name in enumerate(self.marks.source.known) if name in sources])


STATES = (ledger.ON, *ledger.STATES)


def check_sources(params: Params, known: Sequence[str]) -> None:
    """Refuse sources of which there are no rows."""
    for stage, sources in params.sources.items():
        for source in sources:
            if source not in known:
                raise ValueError(
                    f"params.yaml, curate.{stage}.sources names {source!r}, and no row of such a source was ingested: either "
                    "ingest.sources does not name it, or all its rows ended in ingest, whose ledger of it says why (are its "
                    f"pictures where ingest.sources.{source}.images says?); there are {', '.join(sorted(known))}"
                )


def read_marks(params: Params, paths: Sequence[Path], names: Sequence[str]) -> Marks:
    """The marks of all rows; shards that were met before are not read again."""
    near = params.duplicates.near
    with Memo("curate_marks", params.seed, near) as memo:
        new = [(path, name) for path, name in zip(paths, names, strict=True) if None in _kept(memo, name)]
        looks = mapped(looking, (params.seed, near), (pq.read_table(path, columns=example.SCHEMA.names) for path, _ in new))
        for (_, name), (rows, pictures) in zip(new, looks, strict=True):
            memo.keep(partial(pq.write_table, rows), name, "rows")
            memo.keep(partial(pq.write_table, pictures), name, "pictures")
        found = [[pq.read_table(path) for path in _kept(memo, name) if path] for name in names]
    order = [source for sources in params.sources.values() for source in sources]
    return gathered([(rows, pictures) for rows, pictures in found], order)


def _kept(memo: Memo, name: str) -> tuple[Path | None, Path | None]:
    return memo.recall(name, "rows"), memo.recall(name, "pictures")


def read_twins(params: Params, ingested: Path, marks: Marks) -> Twins:
    """Which pictures show the same; nothing is looked at where nobody asks."""
    if not params.duplicates.near:
        return no_twins(len(marks.sha256))
    with Memo("curate_pictures") as memo:
        return twins(stores(ingested), marks.sha256, params.duplicates.distance, memo)


def drop_duplicates(chosen: Choice, params: Params, found: Twins) -> None:
    """End rows that no stage asks for, and those that an earlier row of the stages' sources says already."""
    marks = chosen.marks
    wanted = [source for sources in params.sources.values() for source in sources]
    chosen.end(np.flatnonzero(~chosen.among(wanted)), "unused", "in_no_stage")
    copies = duplicates.exact(marks, chosen.of(wanted))
    chosen.end(copies.rows, "duplicate", duplicates.reasons(marks, copies, loosely=False))
    chosen.counts["duplicates"] = {"exact": len(copies.rows), "near": 0}
    if params.duplicates.near:
        copies = duplicates.near(marks, chosen.of(wanted), found.alike, found.phash)
        chosen.end(copies.rows, "duplicate", duplicates.reasons(marks, copies, loosely=True))
        chosen.counts["duplicates"]["near"] = len(copies.rows)


NAMED = {"source": pl.String, "row": pl.Int64, "reason": pl.String}
"""Rows by their names, and why each ends."""


def drop_contaminated(
    chosen: Choice, params: Params, benchmarks: Path, ingested: Path, paths: Sequence[Path], names: Sequence[str]
) -> pl.DataFrame:
    """End rows that hold a benchmark's picture or question: they are neither learnt from nor tested with.

    Returns:
        Every item that any of them holds (`contamination.LINES`), of which the ledger names the surest.
    """
    asked = kept_out(benchmarks, params.contamination.benchmarks)
    if not asked:
        return pl.DataFrame(schema=contamination.LINES)
    items = contamination.items_of(asked, params.contamination)
    marks, left = chosen.marks, np.flatnonzero(chosen.left)
    known = pl.Series(marks.source.known, dtype=pl.String)
    rows = pl.DataFrame({"source": known.gather(marks.source.of[left]), "row": marks.row[left]})
    showing = marks.owner
    shown = pl.DataFrame(
        {"source": known.gather(marks.source.of[showing]), "row": marks.row[showing], "picture": marks.pictures}
    )
    looks = pl.DataFrame({"picture": np.arange(len(marks.sha256)), "sha256": pl.Series(marks.sha256, dtype=pl.String)}).join(
        pl.DataFrame(read_looks(stores(ingested), ["sha256", "phash"])), on="sha256", how="left", maintain_order="left"
    )
    marked = read_questions(params.contamination, items, paths, names)
    found = contamination.evidence(rows, shown, marked, looks, items, stores(ingested), params.contamination)
    surest = contamination.strongest(found)
    chosen.end_named(contamination.reasons(surest), "contaminated")
    chosen.counts["contaminated"] = {
        "rows": len(surest),
        **{by: surest.filter(pl.col("by") == by)["row"].len() for by in ("picture", "question")},
        "benchmarks": dict(surest.group_by("benchmark").len().sort("benchmark").rows()),
    }
    return found


def read_questions(
    params: Contamination, items: contamination.Items, paths: Sequence[Path], names: Sequence[str]
) -> pl.DataFrame:
    """What the rows ask of the benchmarks' questions; shards that these benchmarks met before are not read again."""
    none = pl.DataFrame(schema=contamination.MARKS)
    if params.rule == "picture" or not len(items.known):
        return none
    given = (items.known, params.question_words, params.question_rows)
    with Memo("curate_questions", items.known.tobytes(), *given[1:]) as memo:
        new = [(path, name) for path, name in zip(paths, names, strict=True) if not memo.recall(name)]
        tables = (pq.read_table(path, columns=["source", "row", "turns"]) for path, _ in new)
        for (_, name), found in zip(new, mapped(contamination.marking, given, tables), strict=True):
            memo.keep(found.write_parquet, name)
        kept = [memo.recall(name) for name in names]
        assert None not in kept, "the memo lost what it has just kept"
        return pl.concat([none, *(pl.read_parquet(path, glob=False) for path in kept if path)])


def drop_outside_coreset(
    chosen: Choice, params: Params, benchmarks: Path, paths: Sequence[Path], digests: Sequence[str]
) -> None:
    """End train's rows that are not in the coreset; keywords that nobody wrote down are found in what `benchmarks` ask."""
    if params.train.coreset.method == "none":
        return
    wanted = with_keywords(params.train.coreset, questions_of(params.train.coreset, benchmarks), WORK)
    marks, rows = chosen.marks, chosen.of(params.train.sources)
    left = pl.DataFrame({"source": np.array(marks.source.known, dtype=object)[marks.source.of[rows]], "row": marks.row[rows]})
    met = read_concepts(wanted, params.train.sources, paths, digests)
    met = met.join(left.cast({"source": pl.String}), on=["source", "row"], how="semi")
    dropped = coreset(met, wanted)
    chosen.end_named(dropped, "not_in_coreset")
    chosen.counts["train"]["coreset"] = coverage(met, dropped, wanted)


def questions_of(wanted: Coreset, benchmarks: Path) -> dict[str, list[str]]:
    """The benchmarks' questions by the dimension that they test, if some dimension has no keywords."""
    questions: dict[str, list[str]] = {}
    if all(wanted.concepts.values()):
        return questions
    for asked in kept_out(benchmarks, "all"):
        questions.setdefault(asked.task, []).append(asked.text)
    return questions


def read_concepts(wanted: Coreset, sources: Sequence[str], paths: Sequence[Path], digests: Sequence[str]) -> pl.DataFrame:
    """What the coreset's choice needs of each row of `sources`; shards that were met before are not read again."""
    with Memo("curate_concepts", wanted.seed, list(concepts_of(wanted).names)) as memo:
        new = [(path, name) for path, name in zip(paths, digests, strict=True) if memo.recall(name) is None]
        looks = mapped(Marker, (wanted,), (pq.read_table(path, columns=example.SCHEMA.names) for path, _ in new))
        for (_, name), found in zip(new, looks, strict=True):
            memo.keep(found.write_parquet, name)
        kept = [memo.recall(name) for name in digests]
        assert None not in kept, "the memo lost what it has just kept"
        return pl.concat(pl.read_parquet(path, glob=False).filter(pl.col("source").is_in(sources)) for path in kept if path)


def hold_out(chosen: Choice, params: Params, found: Twins) -> NDArray[np.bool_]:
    """Keep pictures apart for testing, with all rows behind them; whether each picture is held out.

    Decided on all rows of the stages' sources, dropped ones too: what is dropped later must not bring a picture back.
    """
    marks = chosen.marks
    held = draws.held_out_pictures(marks, params.train.sources, params.held_out, found.alike)
    rows = np.unique(marks.owner[held[marks.pictures]])
    chosen.end(rows[chosen.left[rows]], "held_out", "picture_held_out")
    return held


def choose_for_train(chosen: Choice, params: Params, benchmarks: Path, paths: Sequence[Path], digests: Sequence[str]) -> None:
    """Stage 1's rows: of the chosen tasks, in the coreset, within the quotas, as many Yes as No, and no task over the cap."""
    marks, wanted = chosen.marks, params.train
    met = np.flatnonzero(chosen.among(wanted.sources))
    counts = chosen.counts["train"] = {"rows": {"had": len(chosen.of(wanted.sources))}}
    known = _known(marks.task, met)
    tasks = draws.chosen_tasks(known, wanted.tasks or len(known), params.seed)
    counts["tasks"] = _told("tasks", "tasks", wanted.tasks, len(known), len(tasks))
    rows = chosen.of(wanted.sources)
    others = rows[~np.isin(marks.task.of[rows], [marks.task.known.index(task) for task in tasks])]
    chosen.end(others, "over_cap", f"tasks: not among the {len(tasks)} of {len(known)} that were drawn")

    drop_outside_coreset(chosen, params, benchmarks, paths, digests)
    counts["quotas"] = {
        "domains": _keep_quotas(chosen, params, "domains", marks.domain, marks.kind, _known(marks.domain, met)),
        "kinds": _keep_quotas(chosen, params, "kinds", marks.kind, marks.domain, KINDS),
    }
    if params.balance:
        more_yes, more_no = draws.unbalanced(marks, chosen.of(wanted.sources))
        chosen.end(more_yes, "unbalanced", "more_yes_than_no")
        chosen.end(more_no, "unbalanced", "more_no_than_yes")
    rows = chosen.of(wanted.sources)
    had = np.bincount(marks.task.of[rows], minlength=len(marks.task.known))
    chosen.end(draws.over_cap(marks, rows, wanted.rows_per_task, params.balance), "over_cap", "rows_per_task")

    rows = chosen.of(wanted.sources)
    counts["rows"]["taken"] = len(rows)
    taken = np.bincount(marks.task.of[rows], minlength=len(marks.task.known))
    counts["rows_per_task"] = {
        task: {"wanted": wanted.rows_per_task, "had": int(had[place]), "taken": int(taken[place])}
        for place, task in enumerate(marks.task.known)
        if task in tasks
    }
    for names, cells in ((marks.domain, counts["quotas"]["domains"]), (marks.kind, counts["quotas"]["kinds"])):
        for name, cell in cells.items():
            # Balance and cap come behind the quotas, and may leave less than these took.
            cell["left"] = int((names.of[rows] == names.known.index(name)).sum()) if name in names.known else 0


def _keep_quotas(
    chosen: Choice, params: Params, which: str, cells: Names, kinds: Names, known: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of each cell that has a quota, end the rows above it; for each quota what it wanted, met and took."""
    quotas: Mapping[str, int | float] = getattr(params.train.quotas, which) or {}
    if strange := sorted(set(quotas) - set(known)):
        raise ValueError(
            f"params.yaml, curate.train.quotas.{which} names {', '.join(map(repr, strange))}, and train's sources have no such "
            f"rows; they have {', '.join(map(repr, known))}"
        )
    rows = chosen.of(params.train.sources)
    place = {name: number for number, name in enumerate(cells.known)}
    numbered = {place[name]: quota for name, quota in quotas.items() if name in place}
    over = draws.over_quota(chosen.marks, rows, cells.of[rows], kinds.of[rows], numbered)
    told = {}
    for name, quota in sorted(quotas.items()):
        had = int((cells.of[rows] == place.get(name, -1)).sum())
        taken = had - int((cells.of[over] == place.get(name, -1)).sum())
        told[name] = _told(f"quotas.{which}.{name}", "rows", quota, had, taken)
    chosen.end(over, "over_cap", f"quota_of_{which}")
    return told


def _told(key: str, what: str, wanted: int | float | None, had: int, taken: int) -> dict[str, Any]:
    """What a choice wanted, met and took; a whole number that there were not enough for is said aloud too."""
    if isinstance(wanted, int) and had < wanted:
        print(f"curate.train.{key} wants {wanted} {what}; there are {had}")
    return {"wanted": wanted, "had": had, "taken": taken}


def _known(names: Names, rows: Numbers) -> list[str]:
    return [names.known[place] for place in np.unique(names.of[rows])]


def choose_for_connect(chosen: Choice, params: Params) -> None:
    """Stage 0's rows."""
    rows = chosen.of(params.connect.sources)
    over = draws.beyond(chosen.marks, rows, params.connect.rows)
    chosen.end(over, "over_cap", "connect_rows")
    chosen.counts["connect"] = {"wanted": params.connect.rows, "had": len(rows), "taken": len(rows) - len(over)}


def choose_for_align(chosen: Choice, params: Params, dose: int) -> None:
    """Stage 2's rows."""
    rows = chosen.of(params.align.sources)
    over = draws.beyond(chosen.marks, rows, dose)
    chosen.end(over, "not_in_dose", "dose")
    chosen.counts["align"] = {"wanted": dose, "had": len(rows), "taken": len(rows) - len(over)}


def write_chosen(chosen: Choice, params: Params, paths: Sequence[Path], names: Sequence[str], curated: Path) -> None:
    """Write each selection, a shard for each shard it has rows of, and the ledger of all rows."""
    on = chosen.state == STATES.index(ledger.ON)
    selected = {stage: on & chosen.among(sources) for stage, sources in params.sources.items()}
    selected["held_out"] = chosen.state == STATES.index("held_out")
    reasons = pa.concat_arrays(chosen.reasons)
    lines = []
    with Memo("curate_chosen") as memo:
        for path, name, rows in _met(chosen.marks, paths, names):
            told = pq.read_table(path, columns=["source", "row", "id", "task"])
            states = pa.DictionaryArray.from_arrays(pa.array(chosen.state[rows]), list(STATES)).cast(pa.string())
            lines.append(_lines(told, states, reasons.take(pa.array(chosen.reason[rows]))))
            for selection, mask in selected.items():
                if mask[rows].any():
                    kept = np.packbits(mask[rows]).tobytes()
                    found = memo.recall(name, kept) or memo.keep(partial(_write_rows, path, mask[rows]), name, kept)
                    place(found, curated / selection / path.name)
    for selection in selected:
        (curated / selection).mkdir(exist_ok=True)
    ledger.write_table(curated / "ledger.parquet", pa.concat_tables(lines or [ledger.SCHEMA.empty_table()]))


def _met(marks: Marks, paths: Sequence[Path], names: Sequence[str]) -> Iterator[tuple[Path, str, Numbers]]:
    """Each shard, and the places of its rows among the marks."""
    places = np.empty(len(marks), dtype=np.int64)
    places[marks.met] = np.arange(len(marks))
    first = 0
    for path, name in zip(paths, names, strict=True):
        behind = first + pq.read_metadata(path).num_rows
        yield path, name, places[first:behind]
        first = behind


def _lines(told: pa.Table, states: pa.Array, reasons: pa.Array) -> pa.Table:
    files = pa.array([""], pa.string()).take(pa.array(np.zeros(len(told), dtype=np.int64)))
    for name, column in (("state", states), ("reason", reasons), ("file", files)):
        told = told.append_column(name, column)
    return told


def _write_rows(shard: Path, chosen: NDArray[np.bool_], to: Path) -> None:
    pq.write_table(pq.read_table(shard, columns=example.SCHEMA.names).filter(pa.array(chosen)), to)


if __name__ == "__main__":
    command.run(curate)
