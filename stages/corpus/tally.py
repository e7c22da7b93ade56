"""Rows counted by what they are: small tables that add up over shards, and what they tell of tasks and of a corpus."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

TASK = ["source", "task"]
LONG = 0.95
"""The quantile that `long_answer_words` is."""

Summary = dict[str, Any]
"""A corpus in a few hundred numbers: what the next one is compared with. Plain values, as JSON has them."""


def tally(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows counted by all that is told of them here, which no figure below needs more than.

    `rows` has a line per row: source, task, kind, answer_words (of all its answers), words (of all its turns), says_yes (1, 0,
    null), longest_side (pixels; null without a picture). The counts of two tables, one below the other, are those of both.
    """
    return summed(
        rows.select(*TASK, "kind", "answer_words", "words", "says_yes", side=doubled("longest_side"), rows=pl.lit(1, pl.Int64))
    )


def summed(counts: pl.DataFrame) -> pl.DataFrame:
    """Lines of `tally` that differ in numbers alone as one, in an order of their own."""
    by = [*TASK, "kind", "answer_words", "side"]
    yes = pl.col("says_yes")
    if "judged" not in counts.columns:
        counts = counts.with_columns(judged=yes.is_not_null().cast(pl.Int64), yes=(yes == 1).fill_null(False).cast(pl.Int64))
    told = counts.group_by(by).agg(pl.col("rows", "words", "judged", "yes").cast(pl.Int64).sum())
    return told.sort(by, nulls_last=True)


def doubled(column: str) -> pl.Expr:
    """A number as the end of its bin: 0, 1, 2, 4, 8, …; each bin is as wide as all before it."""
    value = pl.col(column)
    power = (value.cast(pl.Float64).log(2) - 1e-9).ceil().clip(0)
    return pl.when(value > 0).then(pl.lit(2.0).pow(power)).otherwise(value.clip(0)).cast(pl.Int64)


def tasks(counts: pl.DataFrame, judged_rows: int) -> pl.DataFrame:
    """A line per source and task, from its lines of `tally`.

    rows; median_answer_words and long_answer_words (the words of a row's answers: the least number that half, or 95 %, of the
    rows do not exceed); yes_share (of the judgements that agree or deny; null for fewer than `judged_rows` of them);
    answer_share (of all words, those of answers, which alone are learnt).
    """
    lengths = counts.group_by([*TASK, "answer_words"]).agg(pl.col("rows").sum()).sort([*TASK, "answer_words"])
    lengths = lengths.with_columns(so_far=pl.col("rows").cum_sum().over(TASK), of=pl.col("rows").sum().over(TASK))

    def quantile(share: float, name: str) -> pl.DataFrame:
        reached = lengths.filter(pl.col("so_far") >= share * pl.col("of") - 1e-9)
        return reached.group_by(TASK, maintain_order=True).agg(pl.col("answer_words").first().alias(name))

    whole = counts.group_by(TASK).agg(
        rows=pl.col("rows").sum(),
        judged=pl.col("judged").sum(),
        yes=pl.col("yes").sum(),
        words=pl.col("words").sum(),
        answer_words=(pl.col("answer_words").cast(pl.Int64) * pl.col("rows")).sum(),
    )
    return (
        whole.join(quantile(0.5, "median_answer_words"), TASK, how="left")
        .join(quantile(LONG, "long_answer_words"), TASK, how="left")
        .select(
            *TASK,
            "rows",
            "median_answer_words",
            "long_answer_words",
            yes_share=pl.when(pl.col("judged") >= max(judged_rows, 1)).then(pl.col("yes") / pl.col("judged")),
            answer_share=pl.when(pl.col("words") > 0).then(pl.col("answer_words") / pl.col("words")),
        )
        .sort(TASK)
    )


def summary(counts: pl.DataFrame, sources: Mapping[str, Mapping[str, str]]) -> Summary:
    """What drift is told from, of the rows in `counts`; `sources` says of each what it declares."""
    mix: dict[str, dict[str, int]] = {source: {} for source in sources}
    for source, task, rows in counts.group_by(TASK).agg(pl.col("rows").sum()).sort(TASK).iter_rows():
        mix.setdefault(source, {})[task] = rows
    return {
        "rows": int(counts["rows"].sum()),
        "sources": {name: dict(about) for name, about in sources.items()},
        "tasks": mix,
        "kinds": _counted(counts, pl.col("kind")),
        "answer_words": _counted(counts, doubled("answer_words")),
        "picture_sides": _counted(counts, pl.col("side")),
    }


def _counted(counts: pl.DataFrame, by: pl.Expr) -> dict[str, int]:
    told = counts.select(by=by, rows="rows").drop_nulls("by").group_by("by").agg(pl.col("rows").sum()).sort("by")
    return {str(name): rows for name, rows in told.iter_rows()}


def together(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The tally of all rows from those of the shards."""
    return summed(pl.concat(parts))
