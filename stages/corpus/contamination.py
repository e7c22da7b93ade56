"""The contamination firewall: which rows hold a picture or a question of a benchmark, of which item, and how surely.

A row is contaminated by a picture if one of its own is a copy of an item's picture, be it scaled, compressed, mirrored or cut
by up to a tenth (`likeness`): hashes that differ in few bits name the suspects, found without comparing each with each
(`hamming`), and a look at the two pictures themselves decides. It is contaminated by a question if it repeats enough of an
item's rare runs of words (`ngrams`): what many rows or many benchmark pictures have in common is a template and says nothing.

The work is cut as its callers are: `marks` is done on a shard of rows, wherever that lies; `evidence` on narrow columns of all.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from stages.corpus import hamming, likeness, ngrams
from stages.corpus.pictures import places, read_rows, shards_of
from stages.running.memo import Memo
from stages.running.section import Section
from stages.running.workers import mapped

Share = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[float, Field(ge=0, le=255)]


class Contamination(Section):
    """Which benchmarks training must not have seen, and what counts as having seen them."""

    folder: str
    """Where the benchmarks lie, each in a folder of its name: those Tandem scores in their official files, any other as
    pictures, a table of questions (JSON, JSONL or TSV), or both."""
    benchmarks: Literal["all"] | list[str]
    """The names of those to keep out of training, or all that lie there; an empty list looks for none."""
    rule: Literal["either", "picture", "question", "both"]
    """What it takes: a copied picture or a copied question, the one alone, or both of one item."""
    picture_bits: Annotated[int, Field(ge=0, le=16)]
    """Bits, of 64, in which a suspect's hash may differ from one of the item's; always an even number does. More finds more
    crops and costs time; two photographs that have nothing in common differ in 16 or more."""
    picture_likeness: Share
    """Correlation of a suspect's colours with the item's, 0 to 1, at least; 0 lets any suspect count, unseen."""
    picture_patch: Levels
    """How far, in levels of 0 to 255, their colours may differ in any of 8 x 8 patches, brightness and contrast evened out; a
    digit or word that differs is another picture, compression and scaling are not."""
    picture_tone: Levels
    """How far, in levels of 0 to 255, their mean brightness may differ; with 255, a brighter copy is a copy."""
    question_words: Annotated[int, Field(ge=1, le=32)]
    """Words in a run. A template with one word filled in has at most that many runs of its own."""
    question_rows: PositiveInt
    """A run in more rows than this, or with more pictures of the benchmarks, is a template and counts for nothing."""
    question_runs: PositiveInt
    """So many rare runs of an item's question must a row repeat; more than question_words, or one filled-in word suffices."""
    question_share: Share
    """And such a share of all its rare runs, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One item of a benchmark: a question, its picture, or both."""

    benchmark: str
    item: str
    """Names it within its benchmark."""
    text: str
    """What is asked; empty where an item is a picture alone."""
    image: str
    """Names the picture within all benchmarks; empty where there is none."""
    picture: Callable[[], bytes] | None
    """Reads the picture's bytes; None where there is none."""
    task: str = ""
    """What its benchmark tests with it, where that says so."""


LINES = {
    "source": pl.String,
    "row": pl.Int64,
    "benchmark": pl.String,
    "item": pl.String,
    "by": pl.String,
    "distance": pl.Int64,
    "overlap": pl.Float64,
}
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("by", pa.string()),
        ("distance", pa.int64()),
        ("overlap", pa.float64()),
    ]
)
"""What is known of a contaminated row: by "picture" with the bits between the hashes, or by "question" with the share of its
rare runs."""
MARKS = {"source": pl.String, "row": pl.Int64, "gram": pl.UInt64}
PICTURES_A_PIECE, PAIRS_A_PIECE, PAIRS_AT_ONCE = 64, 128, 32


@dataclass(frozen=True)
class Items:
    """All that is compared of the benchmarks: small beside a corpus, so it is held whole, but for the pictures' bytes."""

    items: pl.DataFrame
    """[number: u32, benchmark, item, sha256]: sha256 is null where an item has no picture."""
    hashes: pl.DataFrame
    """[sha256, hash: u64, which: u8]: what each picture's copies may have for a hash; none of a picture that shows nothing."""
    grams: pl.DataFrame
    """[number: u32, gram: u64]: the runs of words of each item's question, without those many pictures share."""
    read: Mapping[str, Callable[[], bytes]]
    """Reads a picture, by its sha256."""

    @property
    def known(self) -> NDArray[np.uint64]:
        """Each run of words once, sorted: all that `marks` needs to know of the benchmarks."""
        return self.grams["gram"].unique().sort().to_numpy()


def items_of(asked: Sequence[Asked], params: Contamination) -> Items:
    """What is compared of the items `asked`.

    Raises:
        ValueError: a benchmark's picture cannot be opened.
    """
    readers: dict[str, Callable[[], bytes]] = {}
    digest_of: dict[str, str] = {}
    for one in asked:
        if one.picture and one.image not in digest_of:
            digest = hashlib.sha256(one.picture()).hexdigest()
            digest_of[one.image] = digest
            readers.setdefault(digest, one.picture)
    items = pl.DataFrame(
        {
            "number": pl.int_range(len(asked), dtype=pl.UInt32, eager=True),
            "benchmark": [one.benchmark for one in asked],
            "item": [one.item for one in asked],
            "sha256": [digest_of.get(one.image) for one in asked],
        },
        schema={"number": pl.UInt32, "benchmark": pl.String, "item": pl.String, "sha256": pl.String},
    )
    runs = ngrams.grams(pl.Series([one.text for one in asked], dtype=pl.String), params.question_words)
    shown = items.select("number", pl.coalesce("sha256", pl.format("{}", "number")).alias("shown"))
    grams = runs.rename({"text": "number"}).join(shown, on="number", maintain_order="left")
    # Counted by picture: one is asked about several times, in other words or with its options turned.
    often = grams.group_by("gram").agg(pl.col("shown").n_unique()).filter(pl.col("shown") > params.question_rows)
    grams = grams.join(often, on="gram", how="anti", maintain_order="left").select("number", "gram")
    names = {digest_of[one.image]: f"{one.benchmark}, item {one.item}" for one in reversed(asked) if one.picture}
    return Items(items, _hashes(readers, names), grams, readers)


def marks(rows: pa.Table, known: NDArray[np.uint64], words: int, most: int) -> pl.DataFrame:
    """[source, row, gram]: which `known` runs of `words` words the rows of a shard ask, of `example.SCHEMA`.

    Of a run that more than `most` rows ask, `most` + 1: enough to know it, of all shards together, for a template.
    """
    asked = ngrams.questions(rows)
    found = ngrams.grams(asked["text"], words).filter(pl.col("gram").is_in(pl.Series(known).implode()))
    lines = found.with_columns(source=asked["source"].gather(found["text"]), row=asked["row"].gather(found["text"])).select(
        *MARKS
    )
    return lines.unique(maintain_order=True).filter(pl.int_range(pl.len()).over("gram") <= most)


def marking(known: NDArray[np.uint64], words: int, most: int) -> Callable[[pa.Table], pl.DataFrame]:
    """What a process of `mapped` does with the table of a shard."""
    return partial(marks, known=known, words=words, most=most)


def evidence(
    rows: pl.DataFrame,
    shown: pl.DataFrame,
    marked: pl.DataFrame,
    looks: pl.DataFrame,
    items: Items,
    stores: Sequence[Path],
    params: Contamination,
) -> pl.DataFrame:
    """Every item that contaminates a row, of `LINES`, by source, row, strength, benchmark and item.

    rows: [source, row], each once. shown: [source, row, picture], a line per picture of a row.
    marked: the `marks` of all shards.
    looks: [picture, sha256, phash: u64], each picture once; without a phash it is compared by its bytes alone.
    stores: the folders whose `images` hold the pictures; only suspects are read.
    """
    by_picture = _empty() if params.rule == "question" else _by_picture(rows, shown, looks, items, stores, params)
    by_question = _empty() if params.rule == "picture" else _by_question(rows, marked, items, params)
    if params.rule == "both":
        key = ["source", "row", "benchmark", "item"]
        by_picture, by_question = (
            by_picture.join(by_question, on=key, how="semi"),
            by_question.join(by_picture, on=key, how="semi"),
        )
    return _ordered(pl.concat([by_picture, by_question]))


def strongest(lines: pl.DataFrame) -> pl.DataFrame:
    """One line per contaminated row, of the `evidence` the strongest: a picture before a question, the nearest first."""
    return _ordered(lines).unique(["source", "row"], keep="first", maintain_order=True)


def reasons(lines: pl.DataFrame) -> pl.DataFrame:
    """[source, row, reason]: what the ledger says of each line's row, named after the benchmark."""
    share = (100 * pl.col("overlap")).round().cast(pl.Int64)
    far = pl.coalesce(pl.format("{} bits away", "distance"), pl.format("{} % of it", share))
    return lines.select("source", "row", reason=pl.format("{}: item {}, its {}, {}", "benchmark", "item", "by", far))


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=LINES)


def _ordered(lines: pl.DataFrame) -> pl.DataFrame:
    order = ["source", "row", "by", "distance", "overlap", "benchmark", "item"]
    return lines.sort(order, descending=[name == "overlap" for name in order])


def _hashes(readers: Mapping[str, Callable[[], bytes]], names: Mapping[str, str]) -> pl.DataFrame:
    """The hashes of all pictures; those of an earlier run are taken up again."""
    tables = [pl.DataFrame(schema={"sha256": pl.String, "hash": pl.UInt64, "which": pl.UInt8})]
    with Memo("benchmark_hashes") as memo:
        digests = list(readers)
        pieces = [digests[first : first + PICTURES_A_PIECE] for first in range(0, len(digests), PICTURES_A_PIECE)]
        new = [piece for piece in pieces if not memo.recall(piece)]
        contents = ([(digest, names[digest], readers[digest]()) for digest in piece] for piece in new)
        for piece, made in zip(new, mapped(_hashing, (), contents), strict=True):
            memo.keep(made.write_parquet, piece)
        for piece in pieces:
            kept = memo.recall(piece)
            assert kept, "the memo lost what it has just kept"
            tables.append(pl.read_parquet(kept, glob=False))
    return pl.concat(tables)


def _hashing() -> Callable[[list[tuple[str, str, bytes]]], pl.DataFrame]:
    def work(pictures: list[tuple[str, str, bytes]]) -> pl.DataFrame:
        digests, made = [], []
        for digest, name, content in pictures:
            try:
                shown = likeness.opened(content)
            except ValueError as error:
                raise ValueError(f"{name}: {error}; what cannot be seen cannot be kept out of training") from error
            if likeness.shows_something(shown):
                digests.append(digest)
                made.append(likeness.hashes(shown))
        return pl.DataFrame(
            {
                "sha256": pl.Series(digests, dtype=pl.String).repeat_by(likeness.HASHES).explode(empty_as_null=False),
                "hash": pl.Series(np.concatenate([*made, np.zeros(0, np.uint64)])),
                "which": pl.Series(np.tile(np.arange(likeness.HASHES, dtype=np.uint8), len(made))),
            }
        ).unique(["sha256", "hash"], keep="first", maintain_order=True)

    return work


def _by_picture(
    rows: pl.DataFrame,
    shown: pl.DataFrame,
    looks: pl.DataFrame,
    items: Items,
    stores: Sequence[Path],
    params: Contamination,
) -> pl.DataFrame:
    shown = shown.join(rows, on=["source", "row"], how="semi").unique()
    seen = looks.join(shown, on="picture", how="semi").sort("sha256")
    pictures = items.items.select(item_sha256="sha256").drop_nulls().unique()
    same = seen.join(pictures, left_on="sha256", right_on="item_sha256").select(
        "sha256", item_sha256="sha256", distance=pl.lit(0, pl.Int64)
    )
    near = suspects(seen, items.hashes, params.picture_bits).join(
        same, on=["sha256", "item_sha256"], how="anti", maintain_order="left"
    )
    if params.picture_likeness > 0:
        near = near.with_columns(_second_look(near, stores, items.read)).filter(
            pl.col("likeness") >= params.picture_likeness,
            pl.col("patch") <= params.picture_patch,
            pl.col("tone") <= params.picture_tone,
        )
    copies = pl.concat([same, near.select("sha256", "item_sha256", pl.col("distance").cast(pl.Int64))])
    # A row of several pictures, or an item found by several: the nearest counts.
    return (
        shown.join(copies.join(seen.select("picture", "sha256"), on="sha256"), on="picture")
        .join(items.items, left_on="item_sha256", right_on="sha256")
        .group_by("source", "row", "benchmark", "item")
        .agg(pl.col("distance").min())
        .select(
            "source", "row", "benchmark", "item", by=pl.lit("picture"), distance="distance", overlap=pl.lit(None, pl.Float64)
        )
    )


def suspects(seen: pl.DataFrame, hashes: pl.DataFrame, bits: int) -> pl.DataFrame:
    """[sha256, item_sha256, distance, which]: pictures of `seen` [sha256, phash] near a benchmark's, each pair once."""
    left, right = seen.drop_nulls("phash").select("sha256", hash="phash"), hashes
    lefts, rights = left["hash"].unique().sort(), right["hash"].unique().sort()
    in_left, in_right, distance = hamming.pairs(lefts.to_numpy(), rights.to_numpy(), bits)
    found = pl.DataFrame({"hash": lefts.gather(in_left), "item_hash": rights.gather(in_right), "distance": distance})
    return (
        found.join(left, on="hash")
        .join(right.select("which", item_hash="hash", item_sha256="sha256"), on="item_hash")
        .sort("sha256", "item_sha256", "distance", "which")
        .unique(["sha256", "item_sha256"], keep="first", maintain_order=True)
        .select("sha256", "item_sha256", "distance", "which")
    )


LOOKED = {"sha256": pl.String, "item_sha256": pl.String, "likeness": pl.Float64, "patch": pl.Float64, "tone": pl.Float64}
Suspects = tuple[dict[str, bytes], dict[str, bytes], list[tuple[str, str, int]]]
"""Pictures of training and of benchmarks by their sha256, and the pairs to look at: of the one, of the other, which crop."""


def _second_look(near: pl.DataFrame, stores: Sequence[Path], read: Mapping[str, Callable[[], bytes]]) -> pl.DataFrame:
    """[likeness, patch, tone] of each suspect, in their order; those of an earlier run are taken up again."""
    found = near.join(places(stores, near["sha256"].unique()), on="sha256").sort("shard", "group", "sha256", "item_sha256")
    pieces = [piece for _, shard in found.group_by("shard", maintain_order=True) for piece in shard.iter_slices(PAIRS_A_PIECE)]
    tables = [pl.DataFrame(schema=LOOKED)]
    with Memo("second_look") as memo:
        keys = [piece.select("sha256", "item_sha256", "which").rows() for piece in pieces]
        new = [number for number, key in enumerate(keys) if not memo.recall(key)]
        looked = mapped(_looking, (), (_suspects(pieces[number], stores, read) for number in new))
        for number, table in zip(new, looked, strict=True):
            memo.keep(table.write_parquet, keys[number])
        for key in keys:
            kept = memo.recall(key)
            assert kept, "the memo lost what it has just kept"
            tables.append(pl.read_parquet(kept, glob=False))
    seen = near.join(pl.concat(tables), on=["sha256", "item_sha256"], how="left", maintain_order="left")
    assert not seen["likeness"].null_count(), "a suspect's picture lies in no store"
    return seen.select("likeness", "patch", "tone")


def _suspects(piece: pl.DataFrame, stores: Sequence[Path], read: Mapping[str, Callable[[], bytes]]) -> Suspects:
    """The pairs of `piece`, which all lie in one shard, and their pictures' bytes."""
    contents: dict[str, bytes] = {}
    for rows in read_rows([shards_of(stores)[piece["shard"][0]]], ["sha256", "bytes"], set(piece["sha256"])):
        contents |= zip(rows["sha256"].to_pylist(), rows["bytes"].to_pylist(), strict=True)
    others = {digest: read[digest]() for digest in piece["item_sha256"].unique(maintain_order=True)}
    return contents, others, piece.select("sha256", "item_sha256", "which").rows()


def _looking() -> Callable[[Suspects], pl.DataFrame]:
    def work(suspects: Suspects) -> pl.DataFrame:
        contents, others, pairs = suspects
        # Reduced at once: a hundred photographs of full size would fill the memory.
        copies = {digest: likeness.reduced(likeness.opened(content), likeness.SHOWN) for digest, content in contents.items()}
        wholes = {digest: likeness.reduced(likeness.opened(content), likeness.BASE) for digest, content in others.items()}
        seen = [
            likeness.compared(
                np.stack([copies[copy] for copy, _, _ in some]),
                np.stack([wholes[other] for _, other, _ in some]),
                np.array([which for _, _, which in some], dtype=np.int64),
            )
            for some in (pairs[first : first + PAIRS_AT_ONCE] for first in range(0, len(pairs), PAIRS_AT_ONCE))
        ]
        return pl.DataFrame(
            {
                "sha256": [copy for copy, _, _ in pairs],
                "item_sha256": [other for _, other, _ in pairs],
                **{name: np.concatenate([getattr(one, name) for one in seen]) for name in ("likeness", "patch", "tone")},
            },
            schema=LOOKED,
        )

    return work


def _by_question(rows: pl.DataFrame, marked: pl.DataFrame, items: Items, params: Contamination) -> pl.DataFrame:
    marked = marked.unique()
    # Of all rows, those that are dropped already too: `marks` counts them, and it must not matter in which shard they lie.
    common = marked.group_by("gram").len().filter(pl.col("len") > params.question_rows).select("gram")
    asked = marked.join(rows.select("source", "row"), on=["source", "row"], how="semi")
    rare = items.grams.join(common, on="gram", how="anti")
    runs = rare.group_by("number").agg(pl.len().alias("runs")).filter(pl.col("runs") >= params.question_runs)
    return (
        asked.join(rare.join(runs, on="number", how="semi"), on="gram")
        .group_by("source", "row", "number")
        .agg(pl.len().alias("repeated"))
        .filter(pl.col("repeated") >= params.question_runs)
        .join(runs, on="number")
        .with_columns(overlap=pl.col("repeated") / pl.col("runs"))
        .filter(pl.col("overlap") >= params.question_share)
        .join(items.items, on="number")
        .select("source", "row", "benchmark", "item", by=pl.lit("question"), distance=pl.lit(None, pl.Int64), overlap="overlap")
    )
