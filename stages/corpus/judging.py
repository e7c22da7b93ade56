"""Rows held to their contract a shard at a time, by several processes; what an earlier run judged is not judged again."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation

from stages.corpus import example, ledger, shards
from stages.corpus.facts import declared, facts_of_pictures, facts_of_texts, hashed, refused, repeated
from stages.corpus.pictures import read_looks
from stages.corpus.suite import Findings, merged, run_suite
from stages.corpus.tally import tally, together
from stages.running.memo import Memo, digest
from stages.running.progress import progress
from stages.running.workers import mapped

FIRST_ROWS = 3
"""Rows that are remembered of each broken expectation, to be shown."""
FEW = 5
"""Shards that are judged in the time that another process takes to start."""
FINDINGS = b"great_expectations"
"""Where a verdict's file has what Great Expectations found."""


@dataclass(frozen=True)
class Rules:
    """What rows are judged by."""

    suite: Mapping[str, Expectation]
    """The expectations by name, in the order in which they are blamed; 64 at most."""
    ends: tuple[str, ...]
    """Those of which a row that breaks them goes no further; the others only warn."""
    placeholders: tuple[str, ...]
    """Answers that say nothing."""
    licences: tuple[str, ...] | None
    """Those allowed; None allows all."""
    languages: tuple[str, ...] | None
    """Likewise."""

    def bit(self, name: str) -> int:
        """The number in which a row's broken expectations are kept, with only this one broken."""
        return 1 << list(self.suite).index(name)


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
        ended = pl.DataFrame(
            pq.read_table(folder / "ledger.parquet", columns=["reason"], filters=[("state", "=", "unreadable")])
        )
        for reason, rows in ended["reason"].value_counts().iter_rows():
            unreadable[ledger.reason_name(reason)] += rows
    return Source(
        name=folder.name,
        folder=folder,
        shards=paths,
        rows=shards.rows(folder / "examples"),
        about={name: declared(about, name) for name in ("licence", "language")},
        unreadable=unreadable,
    )


def surroundings(rules: Rules, source: Source) -> list[pl.DataFrame]:
    """What a row's own text does not say, a table a shard: its pictures, its licence and language, whether its id was there.

    Only narrow columns are read, and never a picture's bytes.
    """
    looks = pl.DataFrame(read_looks([source.folder], ["sha256", "width", "height", "whole"]))
    tables, ids = [], []
    for path in source.shards:
        has_language = "language" in pq.read_schema(path).names
        rows = pq.read_table(path, columns=["id", "images", *(["language"] if has_language else [])])
        own = pl.Series(rows["language"]) if has_language else pl.Series([""]).new_from_index(0, len(rows))
        language = pl.select(pl.when(own.fill_null("") == "").then(pl.lit(source.about["language"])).otherwise(own)).to_series()
        licence = pl.Series([source.about["licence"]]).new_from_index(0, len(rows))
        tables.append(
            facts_of_pictures(rows["images"], looks).with_columns(
                refused_licence=refused(licence, rules.licences), refused_language=refused(language, rules.languages)
            )
        )
        ids.append(hashed(rows["id"]))
    return [table.with_columns(repeated_id=again) for table, again in zip(tables, repeated(ids), strict=True)]


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


class Judge:
    """Holds one shard after another to the contract."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        assert len(rules.suite) <= 64, "a row's broken expectations are the bits of one number"

    def __call__(self, piece: tuple[bytes, pa.Table]) -> Written:
        """The shard's files, from its Parquet file and its `surroundings`.

        The verdict has what names a row, what `tally` counts, and `broken`: bit k for the k-th expectation.
        """
        content, around = piece
        rows = pq.read_table(pa.BufferReader(content))
        facts = pl.concat([facts_of_texts(rows, self.rules.placeholders), pl.DataFrame(around)], how="horizontal")
        columns = [expectation.configuration.kwargs["column"] for expectation in self.rules.suite.values()]
        findings, broken = run_suite(self.rules.suite, facts.select(columns).to_pandas())
        bits = np.zeros(len(rows), np.uint64)
        for name in self.rules.suite:
            bits[broken[name]] |= np.uint64(self.rules.bit(name))
        out = (bits & np.uint64(sum(map(self.rules.bit, self.rules.ends)))) != 0
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
        # Few rows are broken in a way of their own, so each way is spelt once.
        ways, way = np.unique(bits, return_inverse=True)
        names = [[name for name in self.rules.suite if int(one) & self.rules.bit(name)] for one in ways]
        firsts = [next(name for name in broken if name in self.rules.ends) for broken in names]
        return rows.append_column("expectation", pa.array(firsts, pa.string()).take(pa.array(way))).append_column(
            "broken", pa.array(names, pa.list_(pa.string())).take(pa.array(way))
        )


def judge(rules: Rules, sources: Sequence[Source], memo: Memo) -> Iterator[Judged]:
    """Every shard of every source, judged now or in an earlier run; several at once, and one held at a time."""
    pieces: dict[tuple[str, str], tuple[Path, pa.Table]] = {}
    kept: list[tuple[Source, Path, tuple[str, str]]] = []
    for source in sources:
        for path, around in zip(source.shards, surroundings(rules, source), strict=True):
            key = digest(path), _digest_of(around)
            kept.append((source, path, key))
            if any(memo.recall(key, name) is None for name in Written._fields):
                pieces[key] = path, around.to_arrow()
    work = ((path.read_bytes(), around) for path, around in pieces.values())
    # Of few shards this process alone judges all, before others have imported their libraries.
    new = mapped(Judge, (rules,), work, processes=1 if len(pieces) <= FEW else None)
    for key, written in zip(pieces, progress(new, "validate", "shard", len(pieces)) if pieces else (), strict=True):
        for name, content in written._asdict().items():
            memo.keep(partial(_write, content), key, name)
    for source, path, key in kept:
        found = {name: memo.recall(key, name) for name in Written._fields}
        files = {name: path for name, path in found.items() if path is not None}
        assert len(files) == len(found), f"the memo lost what it has just kept of {path}"
        yield Judged(source.name, shards.name(int(path.stem), source.name), path, **files)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _digest_of(around: pl.DataFrame) -> str:
    return digest(*(column.fill_null(-1).to_numpy().tobytes() for column in around.iter_columns()))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink)
    return sink.getvalue().to_pybytes()


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


def weigh(rules: Rules, sources: Sequence[Source], judged: Sequence[Judged]) -> Verdict:
    """The verdicts on all shards as one."""
    lines, warnings, counts, findings = [], [], [], []
    broken: dict[str, Counter[str]] = {name: Counter() for name in rules.suite}
    blamed: dict[str, Counter[str]] = {source.name: Counter() for source in sources}
    first: dict[str, list[tuple[int, int]]] = {name: [] for name in rules.suite}
    for number, one in enumerate(judged):
        table = pq.read_table(one.verdict)
        findings.append(json.loads(table.schema.metadata[FINDINGS]))
        rows = pl.DataFrame(table)
        breaks = {name: (pl.col("broken") & pl.lit(rules.bit(name), pl.UInt64)) != 0 for name in rules.suite}
        blame = [name for name in rules.suite if name in rules.ends]
        reason = pl.coalesce(*(pl.when(breaks[name]).then(pl.lit(name)) for name in blame), pl.lit(""))
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
        for name in [name for name in rules.suite if name not in rules.ends]:
            warnings.append(goes_on.filter(breaks[name]).select("source", "row", "id", "task", expectation=pl.lit(name)))
        for name in rules.suite:
            places = rows.filter(breaks[name])["place"]
            if len(places):
                broken[name][one.source] += len(places)
                first[name] += [(number, place) for place in places.head(FIRST_ROWS - len(first[name]))]
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


def write_quarantine(path: Path, judged: Sequence[Judged]) -> None:
    """All rows that go no further, a shard after the other."""
    tables = (pq.read_table(one.quarantined) for one in judged)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as file:
        file.write_table(first)
        for table in tables:
            if len(table):
                file.write_table(table)
