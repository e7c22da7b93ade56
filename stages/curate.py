"""Choose the rows each tuning stage learns from, keep pictures apart for testing, and say why each other row was dropped.

The order of the decisions, each on what the one before left: rows no stage's sources name (`unused`), exact duplicates,
the split by picture, Yes against No, the cap per task, the numbers of rows for `connect` and `align`. Near duplicates,
contamination by benchmark pictures and the coreset have their place between duplicates and split.

Every draw ranks rows or pictures by a seeded hash of their content. So more data never reshuffles what was chosen: a
picture held out once stays held out, and a smaller number of rows is a part of a larger one.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from stages.corpus import example, ledger, shards
from stages.corpus.example import Example
from stages.corpus.ledger import Line
from stages.running import command
from stages.running.command import Out
from stages.running.section import Section

Sources = Annotated[list[str], Field(min_length=1)]
"""Names of sources, as in ingest.sources; each feeds one tuning stage, and no tuning stage can learn from none."""


class Connect(Section):
    """What stage 0 learns from."""

    sources: Sources
    """Whose rows it may take."""
    rows: PositiveInt
    """At most so many rows, over all its sources."""


class Train(Section):
    """What stage 1 learns from, and is tested on."""

    sources: Sources
    """Whose rows it takes; their pictures are split into training and held-out ones."""
    rows_per_task: PositiveInt
    """At most so many rows of each task."""


class Align(Section):
    """What stage 2 learns from."""

    sources: Sources
    """Whose rows it may take; how many is align.dose."""


class Params(Section):
    """How rows are chosen."""

    seed: int
    """Draws the split and every choice."""
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
        for stage, section in (("connect", self.connect), ("train", self.train), ("align", self.align)):
            for source in section.sources:
                if stage_of.setdefault(source, stage) != stage:
                    raise ValueError(
                        f"{stage}.sources and {stage_of[source]}.sources both name {source!r}; a source feeds one tuning stage"
                        ", so that each of its rows ends in one state"
                    )
        return self


Key = tuple[str, int]
Dropped = dict[Key, tuple[str, str]]
"""(source, row) → (state, reason)."""


def curate(params: Params, validated: Path, dose: str, curated: Out) -> None:
    """Select from the rows that passed the contract.

    `dose`, how many stage-2 rows, is a value of `align`'s section and comes as a word of the command: whoever asks what the
    dose does (`dvc exp run -S align.dose=300`) asks it of align, and not of the stage that happens to count the rows.
    """
    if not dose.isdecimal() or int(dose) == 0:
        raise ValueError(f"align.dose must be a whole number of rows, at least 1, got {dose!r}; change it in params.yaml")
    rows = example.read_all(validated / "examples")
    stage_of = _stage_of(params, {line.source for line in ledger.read(validated / "ledger.parquet")})
    dropped: Dropped = {key(row): ("unused", "in_no_stage") for row in rows if row.source not in stage_of}
    by_stage = _sources(params)
    order = [name for sources in by_stage.values() for name in sources]

    dropped |= duplicates(_left(rows, dropped), order)
    held = held_out_pictures(_left(rows, dropped), params.train.sources, params.held_out, params.seed)
    dropped |= {key(row): ("held_out", "picture_held_out") for row in _left(rows, dropped) if held & set(row.images)}
    if params.balance:
        dropped |= unbalanced(_of(_left(rows, dropped), params.train.sources), params.seed)
    dropped |= over_cap(_of(_left(rows, dropped), params.train.sources), params)
    connecting = _of(_left(rows, dropped), params.connect.sources)
    dropped |= {key(row): ("over_cap", "connect_rows") for row in drawn(connecting, params.seed)[params.connect.rows :]}
    aligning = _of(_left(rows, dropped), params.align.sources)
    dropped |= {key(row): ("not_in_dose", "dose") for row in drawn(aligning, params.seed)[int(dose) :]}

    curated.mkdir(parents=True)
    for stage, sources in by_stage.items():
        example.write(curated / stage / shards.name(0), _of(_left(rows, dropped), sources))
    held_rows = [row for row in rows if dropped.get(key(row), ("",))[0] == "held_out"]
    example.write(curated / "held_out" / shards.name(0), held_rows)
    ledger.write(
        curated / "ledger.parquet",
        [Line(row.source, row.row, row.id, row.task, *dropped.get(key(row), (ledger.ON, ""))) for row in rows],
    )


def key(row: Example) -> Key:
    """What names a row for ever."""
    return row.source, row.row


def content(row: Example) -> str:
    """A digest of what a row teaches: its pictures and its conversation. Bare input means nothing without its task."""
    parts = ["task", row.task] if row.templated else []
    parts += ["images", *row.images]
    for turn in row.turns:
        parts += [turn.role, turn.text]
    # Lengths between the parts, so that no two different rows run together into one text.
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def rank(seed: int, what: str, content: str) -> float:
    """A number in [0, 1) that only `content`, the seed and the purpose decide."""
    digest = hashlib.sha256(f"{seed}|{what}|{content}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def duplicates(rows: Iterable[Example], order: Sequence[str]) -> Dropped:
    """Every row whose pictures and conversation an earlier row has; sources count in `order`, rows in their file's."""
    place = {source: number for number, source in enumerate(order)}
    first: dict[str, Example] = {}
    dropped: Dropped = {}
    for row in sorted(rows, key=lambda row: (place[row.source], row.row)):
        kept = first.setdefault(content(row), row)
        if kept is not row:
            dropped[key(row)] = ("duplicate", f"same_as: {kept.source}#{kept.row}")
    return dropped


def held_out_pictures(rows: Sequence[Example], sources: Sequence[str], share: float, seed: int) -> set[str]:
    """`share` of the pictures of `sources`, and every picture that shares a row with one of these."""
    held = {picture for row in rows if row.source in sources for picture in row.images if rank(seed, "split", picture) < share}
    several = [set(row.images) for row in rows if len(set(row.images)) > 1]
    grown = True
    while grown:
        # A row of two pictures cannot lie in two splits: it takes its second picture along, and that its other rows.
        before = len(held)
        for pictures in several:
            if held & pictures:
                held |= pictures
        grown = len(held) > before
    return held


def unbalanced(rows: Sequence[Example], seed: int) -> Dropped:
    """Of each judgement task, the rows by which Yes outnumbers No, or No Yes."""
    dropped: Dropped = {}
    for task in _by_task(row for row in rows if row.kind == "judgement").values():
        sides = _sides(task)
        for answer, side in sides.items():
            fewest = min(len(one) for one in sides.values())
            for row in drawn(side, seed)[fewest:]:
                dropped[key(row)] = ("unbalanced", f"more_{answer}_than_{'no' if answer == 'yes' else 'yes'}")
    return dropped


def over_cap(rows: Sequence[Example], params: Params) -> Dropped:
    """Of each task, the rows above the cap, of all its kinds alike; balanced judgements stay balanced."""
    cap = params.train.rows_per_task
    dropped: Dropped = {}
    for task in _by_task(rows).values():
        order = drawn(task, params.seed)
        surplus = order[cap:]
        if params.balance and surplus:
            # The draw says how many judgements the cap has room for, and each side gets half of that.
            room = sum(row.kind == "judgement" for row in order[:cap])
            sides = _sides(row for row in task if row.kind == "judgement").values()
            surplus = [row for row in surplus if row.kind != "judgement"]
            surplus += [row for side in sides for row in drawn(side, params.seed)[room // 2 :]]
        dropped |= {key(row): ("over_cap", "rows_per_task") for row in surplus}
    return dropped


def drawn(rows: Iterable[Example], seed: int) -> list[Example]:
    """All of `rows` in an order whose every beginning has the kinds in the proportions of the whole.

    The first 300 are a part of the first 1,000, so that a dose differs from a larger one only by what is added.
    """
    by_kind: dict[str, list[tuple[float, str, int, Example]]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append((rank(seed, "draw", content(row)), row.source, row.row, row))
    spread = []
    for members in by_kind.values():
        members.sort(key=lambda member: member[:3])
        # The n-th of N rows of a kind stands at (n + ½) / N of the way through all rows.
        spread += [((n + 0.5) / len(members), *member) for n, member in enumerate(members)]
    return [member[-1] for member in sorted(spread, key=lambda member: member[:4])]


def _sources(params: Params) -> dict[str, list[str]]:
    return {"connect": params.connect.sources, "train": params.train.sources, "align": params.align.sources}


def _stage_of(params: Params, known: set[str]) -> dict[str, str]:
    stage_of: dict[str, str] = {}
    for stage, sources in _sources(params).items():
        for source in sources:
            if source not in known:
                raise ValueError(
                    f"params.yaml, curate.{stage}.sources names {source!r}, and no row of such a source was ingested: either "
                    "ingest.sources does not name it, or all its rows ended in ingest, whose ledger of it says why (are its "
                    f"pictures where ingest.sources.{source}.images says?); there are {', '.join(sorted(known))}"
                )
            stage_of[source] = stage
    return stage_of


def _left(rows: Iterable[Example], dropped: Mapping[Key, object]) -> list[Example]:
    return [row for row in rows if key(row) not in dropped]


def _of(rows: Iterable[Example], sources: Sequence[str]) -> list[Example]:
    return [row for row in rows if row.source in sources]


def _by_task(rows: Iterable[Example]) -> dict[str, list[Example]]:
    tasks: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        tasks[row.task].append(row)
    return tasks


def _sides(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Judgement rows by their answer; the contract has seen to it that each begins with one of the two."""
    sides: dict[str, list[Example]] = {"yes": [], "no": []}
    for row in rows:
        answer = next(turn.text for turn in row.turns if turn.role == "assistant")
        sides["yes" if re.match(r"\W*yes\b", answer, re.IGNORECASE) else "no"].append(row)
    return sides


if __name__ == "__main__":
    command.run(curate)
