"""A part of many rows that covers what benchmarks test: as diverse as can be, with as many Yes as No.

After SVIT's selection: concepts that stand for a benchmark's dimensions (keywords), the conversations that hold most of them,
and then a balance of Yes and No. `Marker` looks at a shard's rows once and keeps of each what the choice needs, some tens of
bytes; `coreset` chooses over all of them.

Every method puts the rows into one order, which does not depend on how many are wanted, and keeps its beginning: a smaller
coreset is a part of a larger one. Where rows are alike a seeded hash of their content decides, so neither the shards they lie
in nor the rows' numbers do.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, field_validator, model_validator

from stages.corpus.keywords import by_endpoint, by_rules, forms, normal
from stages.corpus.text import HAN, agrees, denies
from stages.running.endpoint import Endpoint
from stages.running.section import Section


class Coreset(Section):
    """Which part of the rows is learnt from."""

    method: Literal["none", "random", "diverse", "balanced", "both"]
    """none: all. random: a draw. diverse: greedy for the overlap with `concepts`. balanced: a draw with as many Yes as No.
    both: greedy, with as many Yes as No."""
    rows: PositiveInt | None
    """At most so many rows; a smaller number is a part of a larger one. null with none, and with balanced if it keeps all it
    can."""
    seed: int
    """Draws the random order, and decides where rows are alike."""
    concepts: dict[str, list[str]]
    """Dimension of a benchmark: its keywords, in the singular, of up to four words. Of an empty list, `keywords` finds them."""
    keywords: Literal["rules", "endpoint"]
    """Who finds the keywords of dimensions that have none: rules, built in, or a language model. Both look at the
    dimension's name, and at the questions of a benchmark that has a dimension of this name."""
    keywords_per_dimension: Annotated[int, Field(ge=1, le=100)]
    """At most so many are found for a dimension."""
    endpoint: Endpoint
    """The language model; read only with keywords: endpoint."""

    @field_validator("concepts")
    @classmethod
    def _are_keywords(cls, concepts: dict[str, list[str]]) -> dict[str, list[str]]:
        for keyword in (one for given in concepts.values() for one in given):
            normal(keyword)
        return concepts

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Self:
        if self.rows is None and self.method not in ("none", "balanced"):
            raise ValueError(f"method {self.method} chooses some of the rows; say how many in rows")
        if not self.concepts and self.method in ("diverse", "both"):
            raise ValueError(f"method {self.method} needs concepts")
        return self


def with_keywords(params: Coreset, questions: Mapping[str, Sequence[str]], work: Path) -> Coreset:
    """`params` with keywords in every dimension; `questions` are those that benchmarks ask, by dimension.

    Raises:
        ValueError: none can be found for a dimension, or the endpoint fails.
    """
    bare = {name: questions.get(name, ()) for name, given in params.concepts.items() if not given}
    if not bare or params.method in ("none", "random", "balanced"):
        return params
    if params.keywords == "endpoint":
        found = by_endpoint(bare, params.keywords_per_dimension, params.endpoint, work / "keywords")
    else:
        # The other dimensions' questions are what a dimension's words stand out against.
        known = by_rules({name: questions.get(name, ()) for name in params.concepts}, params.keywords_per_dimension)
        found = {name: known[name] for name in bare}
    return params.model_copy(update={"concepts": {**params.concepts, **found}})


@dataclass(frozen=True, slots=True)
class Concepts:
    """Keywords as numbers: the place of a keyword here is its bit in what `Marker` gives."""

    names: tuple[str, ...]
    """In normal form, each once."""
    dimensions: dict[str, tuple[int, ...]]
    """The concepts of each dimension."""

    @property
    def weights(self) -> np.ndarray:
        """What each concept counts, float64 of shape (concepts,): dimensions count alike, and in each its concepts."""
        weights = np.zeros(len(self.names))
        for own in self.dimensions.values():
            weights[list(own)] += 1 / len(own)
        return weights


def concepts_of(params: Coreset) -> Concepts:
    """The concepts of `params`, which must have keywords in every dimension (`with_keywords`) if its method reads them."""
    if params.method in ("none", "random", "balanced"):
        return Concepts((), {})
    number: dict[str, int] = {}
    dimensions = {}
    for name, keywords in params.concepts.items():
        assert keywords, f"with_keywords was not asked for those of {name}"
        dimensions[name] = tuple(dict.fromkeys(number.setdefault(normal(keyword), len(number)) for keyword in keywords))
    return Concepts(tuple(number), dimensions)


class Marker:
    """Looks at the rows of a shard; made once in each process."""

    def __init__(self, params: Coreset) -> None:
        """`params` with keywords in every dimension."""
        self.seed, self.concepts = params.seed, concepts_of(params)
        # A space before and behind, so that only whole words are found.
        written = [
            (form if HAN.search(form) else f" {form} ", number)
            for number, name in enumerate(self.concepts.names)
            for form in forms(name)
        ]
        self.forms = pl.DataFrame(written, {"hit": pl.String, "concept": pl.Int64}, orient="row")

    def __call__(self, rows: pa.Table) -> pl.DataFrame:
        """A line for each row of a table of `example.SCHEMA`, in its order.

        `source`, `row`; `rank`: a seeded number that its content decides; `concepts`: a bit each, the first the highest of
        the first byte; `lean`: its answers that begin with Yes less those that begin with No.
        """
        turns = rows["turns"].combine_chunks()
        flat = turns.flatten()
        said = pc.binary_join(pa.ListArray.from_arrays(turns.offsets, turns.values.field("text")), "\x1f")
        # Bare input means nothing without its task.
        task = pc.if_else(rows["templated"].combine_chunks(), rows["task"].combine_chunks(), "").cast(pa.string())
        text = pc.binary_join_element_wise(task, said, "\x1e")
        return pl.DataFrame(
            {
                "source": pl.Series(rows["source"], dtype=pl.String),
                "row": pl.Series(rows["row"], dtype=pl.Int64),
                "rank": self._ranks(rows, text),
                "concepts": self._concepts(pl.Series(text, dtype=pl.String)),
                "lean": _lean(flat, pc.list_parent_indices(turns), len(rows)),
            }
        )

    def _ranks(self, rows: pa.Table, text: pa.Array) -> pl.Series:
        about = pc.binary_join(rows["images"].combine_chunks(), ",")
        whole = pc.binary_join_element_wise(about, text, "\x1e").cast(pa.binary())
        begun = hashlib.sha256(f"{self.seed}|coreset|".encode())
        ranks = np.empty(len(rows), dtype=np.uint64)
        for number, content in enumerate(whole.to_pylist()):
            made = begun.copy()
            made.update(content)
            ranks[number] = int.from_bytes(made.digest()[:8], "big")
        return pl.Series(ranks)

    def _concepts(self, text: pl.Series) -> pl.Series:
        found = np.zeros((len(text), len(self.concepts.names)), dtype=bool)
        if self.concepts.names:
            plain = " " + text.str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ") + " "
            # Overlapping, for the space between two keywords belongs to both.
            hits = pl.DataFrame(
                {"line": np.arange(len(text)), "hit": plain.str.extract_many(self.forms["hit"].to_list(), overlapping=True)}
            )
            pairs = hits.explode("hit").drop_nulls().join(self.forms, on="hit")
            found[pairs["line"].to_numpy(), pairs["concept"].to_numpy()] = True
        bits = np.packbits(found, axis=1)
        packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(bits.shape[1]), len(text), [None, pa.py_buffer(bits.tobytes())])
        return pl.Series(packed.cast(pa.large_binary()), dtype=pl.Binary)


def _lean(turns: pa.StructArray, of_row: pa.Array, rows: int) -> pl.Series:
    answers = pc.equal(turns.field("role"), "assistant")
    text, owner = turns.field("text").filter(answers), of_row.filter(answers).to_numpy()
    said = pl.Series(text, dtype=pl.String)
    yes, no = (np.bincount(owner[how(said).to_numpy()], minlength=rows) for how in (agrees, denies))
    return pl.Series((yes - no).astype(np.int32))


SCHEMA = {"source": pl.String, "row": pl.Int64, "reason": pl.String}


def coreset(marks: pl.DataFrame, params: Coreset) -> pl.DataFrame:
    """The rows that are not kept, sorted, as `source`, `row`, `reason`. `params` are those of which the marks were made.

    Kept are at most `params.rows`, from the beginning of the method's order:

    random    the order of the ranks.
    diverse   a row is worth Σ w / (1 + n) over its concepts: w is the concept's weight, n in how many rows before this one
              it stands. Each row is, up to `SLACK`, the one that is worth most then.
    balanced  random, but a row whose answers lean to Yes gives its place to the next one that leans to No whenever those
    both      before it lean to Yes, and the other way round; so do those of diverse. What then is left over on one side
              is not kept.
    """
    if params.method == "none":
        return pl.DataFrame(schema=SCHEMA)
    best = marks.select(pl.arg_sort_by("rank", "source", "row")).to_series()
    lean = marks["lean"].gather(best).to_numpy()
    greedy, fair = params.method in ("diverse", "both"), params.method in ("balanced", "both")
    wanted = len(marks) if params.rows is None else min(params.rows, len(marks))
    order = np.arange(len(marks))
    surplus = np.zeros(len(marks), dtype=bool)
    if greedy:
        # A balance takes rows from far behind, and so needs the whole order.
        order = _diverse(marks["concepts"].gather(best), concepts_of(params).weights, len(marks) if fair else wanted)
    if fair:
        order, surplus = _fair(order, lean)
    dropped = np.ones(len(marks), dtype=bool)
    dropped[order[:wanted]] = False
    ended = marks[best.filter(pl.Series(dropped))].with_columns(surplus=pl.Series(surplus[dropped]))
    method = pl.lit(params.method)
    beyond = pl.format("{}: not among the {} drawn", method, pl.lit(wanted))
    if greedy:
        total = len(concepts_of(params).names)
        beyond = pl.format("{}: overlap {} of {} concepts", method, pl.lit(_overlap(ended["concepts"])), pl.lit(total))
    more = pl.when(pl.col("lean") > 0).then(pl.lit("more Yes than No")).otherwise(pl.lit("more No than Yes"))
    reason = pl.when("surplus").then(pl.format("{}: {}", method, more)).otherwise(beyond)
    return ended.select("source", "row", reason=reason).sort("source", "row")


SLACK = 0.02
"""A row may be worth this share less than the one that is worth most. The rows are gone through at falling thresholds, each
this share below the one before, and not once for every choice (A. Badanidiyuru, J. Vondrák, "Fast algorithms for maximizing
submodular functions", 2014); thresholds are powers of one number, so that they are the same whatever rows there are."""
BLOCK = 4096
"""Sets of concepts whose worth is computed at once; those that the choices in a block made worthless cost a look each."""


def _diverse(concepts: pl.Series, weights: np.ndarray, wanted: int) -> np.ndarray:
    """The numbers of the first `wanted` rows in the greedy order; those with no concept come last.

    Rows that hold the same concepts are worth the same, so they share a bucket, and its first is taken.
    """
    buckets = (
        pl.DataFrame({"concepts": concepts, "line": np.arange(len(concepts))})
        .group_by("concepts", maintain_order=True)
        .agg(pl.col("line"))
    )
    starts, held = _held(buckets["concepts"])
    lines = buckets["line"].explode().to_numpy()
    left = buckets["line"].list.len().to_list()
    ends = np.cumsum(left)
    del buckets
    # Lists of Python's own, for one number at a time they are several times as fast as arrays.
    full, value, before = weights.tolist(), weights.tolist(), [0] * len(weights)
    bound = _worth(np.arange(len(left)), starts, held, value)
    taken: list[int] = []
    while len(taken) < wanted and (most := float(bound.max(initial=0.0))) > 0:
        threshold = _threshold(most)
        # Worth only ever falls, so what was below the threshold at its last look is so still.
        candidates = np.flatnonzero(bound >= threshold)
        for first in range(0, len(candidates), BLOCK):
            block = candidates[first : first + BLOCK]
            bound[block] = _worth(block, starts, held, value)
            for bucket in block[bound[block] >= threshold].tolist():
                own = held[starts[bucket] : starts[bucket + 1]].tolist()
                while left[bucket] and sum([value[concept] for concept in own]) >= threshold and len(taken) < wanted:
                    taken.append(int(lines[ends[bucket] - left[bucket]]))
                    left[bucket] -= 1
                    for concept in own:
                        before[concept] += 1
                        value[concept] = full[concept] / (1 + before[concept])
                bound[bucket] = sum([value[concept] for concept in own]) if left[bucket] else 0.0
            if len(taken) == wanted:
                break
    rest = np.ones(len(concepts), dtype=bool)
    rest[taken] = False
    return np.concatenate([np.array(taken, dtype=np.int64), np.flatnonzero(rest)])[:wanted]


def _threshold(most: float) -> float:
    """The highest power of `1 - SLACK` that is not above `most`."""
    power = math.ceil(math.log(most) / math.log(1 - SLACK))
    while (1 - SLACK) ** power > most:  # by rounding
        power += 1
    return (1 - SLACK) ** power


def _held(sets: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Where the concepts of each of `sets` begin, int64 of shape (sets + 1,), and these one after the other, int32 (held,)."""
    found, counts = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
    for first in range(0, len(sets), 2**16):  # unpacked, a bit takes a byte
        bits = np.unpackbits(_bytes(sets.slice(first, 2**16)), axis=1)
        found.append(np.nonzero(bits)[1].astype(np.int32))
        counts.append(bits.sum(axis=1, dtype=np.int64))
    return np.cumsum(np.concatenate(counts)), np.concatenate(found)


def _bytes(sets: pl.Series) -> np.ndarray:
    """Bits packed, uint8 of shape (sets, bytes)."""
    joined = b"".join(sets.to_list())
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(sets), -1) if len(sets) else np.zeros((0, 0), dtype=np.uint8)


def _overlap(sets: pl.Series) -> pl.Series:
    """How many concepts each of `sets` holds."""
    parts = [
        np.bitwise_count(_bytes(sets.slice(first, 2**20))).sum(axis=1, dtype=np.int64) for first in range(0, len(sets), 2**20)
    ]
    return pl.Series(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def _worth(buckets: np.ndarray, starts: np.ndarray, held: np.ndarray, value: Sequence[float]) -> np.ndarray:
    """What a row of each of `buckets` is worth now: the sum of the values of its concepts, float64 of shape (buckets,)."""
    begin, size = starts[buckets], starts[buckets + 1] - starts[buckets]
    ends = np.cumsum(size)
    # The places of all their concepts, without a loop: from each beginning, one after the other.
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(begin - (ends - size), size)
    owner = np.repeat(np.arange(len(buckets)), size)
    return np.bincount(owner, np.asarray(value)[held[places]], len(buckets))


def _fair(order: np.ndarray, lean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`order` with the rows that lean so that Yes and No stay level, and which rows are left over (bool, of every row)."""
    leaning = lean[order] != 0
    sides = {side: order[np.sign(lean[order]) == side].tolist() for side in (1, -1)}
    place = np.empty(len(lean), dtype=np.int64)
    place[order] = np.arange(len(order))
    next_of = {1: 0, -1: 0}
    level, judged = 0, []
    while True:
        waiting = [side for side in (1, -1) if next_of[side] < len(sides[side])]
        if level:
            side = -1 if level > 0 else 1
        elif len(waiting) == 2:
            side = min(waiting, key=lambda side: place[sides[side][next_of[side]]])
        else:
            break
        if side not in waiting:
            break
        row = sides[side][next_of[side]]
        next_of[side] += 1
        level += int(lean[row])
        judged.append(row)
    surplus = np.zeros(len(lean), dtype=bool)
    surplus[order[leaning]] = True
    surplus[judged] = False
    fair = order.copy()
    slots = np.flatnonzero(leaning)
    fair[slots[: len(judged)]] = judged
    stays = np.ones(len(order), dtype=bool)
    stays[slots[len(judged) :]] = False
    return fair[stays], surplus


def coverage(marks: pl.DataFrame, dropped: pl.DataFrame, params: Coreset) -> dict[str, Any]:
    """What `coreset` chose of: rows, answers' sides, and for each dimension its keywords, among all rows and the kept ones."""
    kept = marks.join(dropped, on=["source", "row"], how="anti")
    concepts = concepts_of(params)
    counts = {}
    rows = {}
    for name, part in (("met", marks), ("kept", kept)):
        counts[name] = np.zeros(8 * ((len(concepts.names) + 7) // 8), dtype=np.int64)
        rows[name] = dict.fromkeys(concepts.dimensions, 0)
        for first in range(0, len(part) if concepts.names else 0, 2**16):
            bits = np.unpackbits(_bytes(part["concepts"].slice(first, 2**16)), axis=1)
            counts[name] += bits.sum(axis=0, dtype=np.int64)
            for dimension, own in concepts.dimensions.items():
                rows[name][dimension] += int(bits[:, list(own)].any(axis=1).sum())
    return {
        "method": params.method,
        "rows": {"met": len(marks), "kept": len(kept)},
        "more_yes_than_no": {"met": int((marks["lean"] > 0).sum()), "kept": int((kept["lean"] > 0).sum())},
        "more_no_than_yes": {"met": int((marks["lean"] < 0).sum()), "kept": int((kept["lean"] < 0).sum())},
        "dimensions": {
            dimension: {
                "keywords": {concepts.names[number]: int(counts["kept"][number]) for number in own},
                "never_met": [concepts.names[number] for number in own if not counts["met"][number]],
                "rows": {name: rows[name][dimension] for name in ("met", "kept")},
            }
            for dimension, own in concepts.dimensions.items()
        },
    }
