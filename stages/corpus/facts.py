"""What can be told of a row's conversation and of its pictures, as numbers: the table that the data contract judges.

Everything is computed column by column, by Polars, a shard at a time. A null means that there is nothing to say.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from stages.corpus import boxes
from stages.corpus.example import IMAGE, KINDS, ORIGINS
from stages.corpus.text import CONTROL, LETTER, LETTERED, OPTIONS, SPECIAL, VISIBLE, WORD, agrees, denies

UNDECLARED = "undeclared"
"""Stands for the licence or the language of what says none, where params list those that are allowed."""
BOX = rf"^\[{boxes.BOX.pattern}\]$"

TEXT = pl.col("text")
OF_USER, OF_ASSISTANT = pl.col("role") == "user", pl.col("role") == "assistant"


def facts_of_texts(rows: pa.Table, placeholders: Sequence[str]) -> pl.DataFrame:
    """A line per row of `rows` (a table of `example.SCHEMA`), told from the row alone.

    Counts are int32; what not every row has is float32, null where there is nothing to say. `placeholders` are answers that
    say nothing, such as "the message is empty"; case and what stands between words do not matter.
    """
    turns = _turns(rows)
    told = _conversations(turns, placeholders)
    table = pl.DataFrame(
        {
            "number": pl.int_range(len(rows), dtype=pl.Int64, eager=True),
            "kind": pl.Series(rows["kind"]),
            "origin": pl.Series(rows["origin"]),
            "task_characters": pl.Series(rows["task"]).str.len_chars(),
            "pictures": pl.Series(pc.list_value_length(rows["images"])),
        }
    )
    for one in (told, _judgements(turns), _choices(turns), _boxes(turns)):
        table = table.join(one, "number", how="left", maintain_order="left")
    # A row without turns has no role that is known, and neither begins nor ends as it should.
    silent = pl.col("unknown_roles").is_null()
    counts = [name for name in told.columns if name != "number"]
    return table.select(
        "task_characters",
        unknown_kind=~pl.col("kind").is_in(KINDS),
        unknown_origin=~pl.col("origin").is_in(ORIGINS),
        **{
            name: pl.when(silent).then(int(name in ("unknown_roles", "first_not_user", "last_not_assistant"))).otherwise(name)
            for name in counts
            if name != "marks"
        },
        marks_beside_pictures=pl.col("marks").fill_null(0).cast(pl.Int64) - pl.col("pictures"),
        pictures="pictures",
        unclear_judgements="unclear_judgements",
        choices_without_option="choices_without_option",
        boxes_outside="boxes_outside",
        says_yes="says_yes",
    ).with_columns(
        pl.all().exclude(OPTIONAL).cast(pl.Int32).fill_null(0),
        pl.col(OPTIONAL).cast(pl.Float32),
    )


OPTIONAL = ["unclear_judgements", "choices_without_option", "boxes_outside", "says_yes"]


def _turns(rows: pa.Table) -> pl.DataFrame:
    """A line per turn of all rows: whose it is, in which row (`number`), and what its text comes to."""
    turns = rows["turns"].combine_chunks()
    flat = turns.flatten()
    number = pl.Series("number", pc.list_parent_indices(turns)).cast(pl.Int64)
    return (
        pl.DataFrame({"number": number, "role": pl.Series(flat.field("role")), "text": pl.Series(flat.field("text"))})
        .with_columns(
            kind=pl.Series(rows["kind"]).gather(number),
            templated=pl.Series(rows["templated"]).gather(number),
            first=pl.col("number").ne_missing(pl.col("number").shift(1)),
        )
        .with_columns(
            follows_its_like=~pl.col("first") & (OF_USER | OF_ASSISTANT) & pl.col("role").eq_missing(pl.col("role").shift(1)),
            gets_instruction=pl.col("first") & pl.col("templated"),
            # A question of marks alone asks nothing; what else stands in an answer is judged as it is.
            empty=~pl.when(OF_USER).then(TEXT.str.replace_all(IMAGE, "", literal=True)).otherwise(TEXT).str.contains(VISIBLE),
            words=TEXT.str.count_matches(WORD),
            characters=TEXT.str.len_chars(),
            marks=TEXT.str.count_matches(IMAGE, literal=True),
        )
    )


def _conversations(turns: pl.DataFrame, placeholders: Sequence[str]) -> pl.DataFrame:
    """What is counted of every row that has turns, whatever its kind."""
    return (
        turns.lazy()
        .group_by("number")
        .agg(
            unknown_roles=(~(OF_USER | OF_ASSISTANT)).sum(),
            first_not_user=(~OF_USER).first(),
            not_in_turns=pl.col("follows_its_like").sum(),
            last_not_assistant=(~OF_ASSISTANT).last(),
            empty_answers=(OF_ASSISTANT & pl.col("empty")).sum(),
            empty_questions=(OF_USER & pl.col("empty") & ~pl.col("gets_instruction")).sum(),
            placeholder_answers=(OF_ASSISTANT & _folded(TEXT).is_in([_plain(phrase) for phrase in placeholders])).sum(),
            longest_answer_words=pl.col("words").filter(OF_ASSISTANT).max(),
            longest_answer_characters=pl.col("characters").filter(OF_ASSISTANT).max(),
            longest_question_characters=pl.col("characters").filter(OF_USER).max(),
            control_characters=TEXT.str.contains(CONTROL).sum(),
            special_tokens=TEXT.str.contains(SPECIAL).sum(),
            marks=pl.col("marks").filter(OF_USER).sum(),
            marks_in_answers=pl.col("marks").filter(OF_ASSISTANT).sum(),
            answer_words=pl.col("words").filter(OF_ASSISTANT).sum(),
            words=pl.col("words").sum(),
        )
        .collect()
    )


def _first_answers(turns: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The first answer (`answer`) of every row of `kind` that has one."""
    answers = turns.filter(OF_ASSISTANT & (pl.col("kind") == kind)).select("number", answer=TEXT)
    return answers.unique("number", keep="first", maintain_order=True)


def _judgements(turns: pl.DataFrame) -> pl.DataFrame:
    """Whether a judgement's first answer agrees (`says_yes`), and whether it does neither that nor deny."""
    answer = pl.col("answer")
    told = _first_answers(turns, "judgement").select("number", yes=agrees(answer), no=denies(answer))
    return told.select(
        "number",
        unclear_judgements=~(pl.col("yes") | pl.col("no")),
        says_yes=pl.when(pl.col("yes") | pl.col("no")).then("yes"),
    )


def _choices(turns: pl.DataFrame) -> pl.DataFrame:
    """Whether a choice's first answer is no option of its question; null where the question lists none.

    Options are what follows `Options:`, or, in a question without the word, what has letters of which A and B are two. An
    answer that is a letter must be the letter of an option. Any other must stand in the list, its letter apart.
    """
    asked = turns.filter(OF_USER & (pl.col("kind") == "choice")).group_by("number", maintain_order=True).agg(TEXT)
    listed, letter, letters = pl.col("listed"), pl.col("letter"), pl.col("letters")
    told = (
        _first_answers(turns, "choice")
        .join(asked.select("number", question=TEXT.list.join("\n")), "number", how="left", maintain_order="left")
        .with_columns(listed=pl.col("question").fill_null("").str.extract(OPTIONS, 1))
        .with_columns(
            letter=pl.coalesce(pl.col("answer").str.extract(LETTER, group) for group in (1, 2, 3)).str.to_lowercase(),
            rest=_spaced(pl.col("answer").str.replace(LETTER, "")).str.strip_chars_end("."),
            whole=_spaced(pl.col("answer")).str.strip_chars_end("."),
            letters=pl.coalesce(listed, pl.col("question")).str.extract_all(LETTERED)
            .list.eval(pl.element().str.extract("([A-Za-z])", 1).str.to_lowercase()),
            among=_spaced(listed),
        )
        .with_columns(
            has_letters=letters.list.contains("a") & letters.list.contains("b"),
            is_letter=letter.is_not_null() & (pl.col("rest") == ""),
            letter_is_there=letters.list.contains(letter),
        )
    )  # fmt: skip
    in_list = pl.col("among").str.contains(pl.col("whole"), literal=True)
    rest_in_list = pl.col("letter_is_there") & pl.col("among").str.contains(pl.col("rest"), literal=True)
    right = (
        pl.when(pl.col("has_letters") & pl.col("is_letter"))
        .then(pl.col("letter_is_there"))
        .when(listed.is_not_null())
        .then(in_list | rest_in_list.fill_null(False))
        .when(pl.col("has_letters") & letter.is_not_null())
        .then(pl.col("letter_is_there"))
    )
    return told.select("number", choices_without_option=~right)


def _boxes(turns: pl.DataFrame) -> pl.DataFrame:
    """How many bracketed numbers of a referring row are no box in the picture; null where it has none (`boxes.parsed`)."""
    sides = ["x1", "y1", "x2", "y2"]
    x1, y1, x2, y2 = (pl.col(side) for side in sides)
    within = pl.all_horizontal(pl.col(side).is_between(0, 1) for side in sides) & (x1 <= x2) & (y1 <= y2)
    return (
        turns.filter((pl.col("kind") == "referring") & TEXT.str.contains("[", literal=True))
        .group_by("number", maintain_order=True)
        .agg(TEXT)
        # As one text, because a bracket opened in one turn may be closed in the next.
        .select("number", found=TEXT.list.join("\n").str.extract_all(boxes.BRACKETS.pattern))
        .explode("found", empty_as_null=False)
        .with_columns(pl.col("found").str.extract(BOX, place).alias(side) for place, side in enumerate(sides, start=1))
        .with_columns(pl.col(sides).str.strip_prefix("+").cast(pl.Float64, strict=False))
        .group_by("number", maintain_order=True)
        .agg(boxes_outside=(~within.fill_null(False)).sum())
    )


def _plain(phrase: str) -> str:
    """One phrase as `_folded` makes it."""
    return pl.select(_folded(pl.lit(phrase))).item()


def _folded(text: pl.Expr) -> pl.Expr:
    """`text` in small letters, its words one space apart, without anything else."""
    return text.str.to_lowercase().str.replace_all(r"\W+", " ").str.strip_chars(" ")


def _spaced(text: pl.Expr) -> pl.Expr:
    """`text` in small letters with single spaces."""
    return text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars(" ")


def facts_of_pictures(images: pa.ChunkedArray, looks: pl.DataFrame) -> pl.DataFrame:
    """A line per row of `images`, the sha256 of each row's pictures: of its pictures the worst.

    `looks` has a line per picture of the source, with `sha256`, `width`, `height` and `whole`. What comes back, float32 with
    nulls: `cut_pictures`, how many do not decode whole; `shortest_side` and `longest_side`, in pixels.

    Raises:
        AssertionError: a picture was never looked at.
    """
    lists = images.combine_chunks()
    shown = pl.DataFrame(
        {
            "number": pl.Series(pc.list_parent_indices(lists)).cast(pl.Int64),
            "sha256": pl.Series(lists.flatten()).cast(pl.String),
        }
    )
    # First the few pictures of these rows out of all, so that no table of all is built for each shard.
    seen = looks.join(shown.select("sha256").unique(), "sha256", how="semi").with_columns(seen=True)
    found = shown.join(seen, "sha256", how="left")
    lost = found.filter(pl.col("seen").is_null())
    assert lost.is_empty(), f"{len(lost)} pictures are in no store, such as {lost['sha256'][0]}"
    worst = found.group_by("number").agg(
        # Of a picture too large to be decoded, nobody knows.
        cut_pictures=pl.when(pl.col("whole").is_not_null().any()).then((~pl.col("whole")).sum()),
        shortest_side=pl.min_horizontal("width", "height").min(),
        longest_side=pl.max_horizontal("width", "height").max(),
    )
    every = pl.DataFrame({"number": pl.int_range(len(images), dtype=pl.Int64, eager=True)})
    return every.join(worst, "number", how="left", maintain_order="left").drop("number").cast(pl.Float32)


def repeated(ids: Sequence[pl.Series]) -> list[pl.Series]:
    """Of every row of a source, whether an earlier one has its id: float32, null for a row without one.

    `ids`: a shard an entry, each row's id as a hash of 64 bits or null. Two of four million ids fall together with a chance
    of one in a million, so no verdict hangs on it but this.
    """
    known = pl.concat([pl.Series([], dtype=pl.UInt64), *ids])
    again = pl.select(pl.when(known.is_not_null()).then(~known.is_first_distinct())).to_series().cast(pl.Float32)
    ends = [0]
    for one in ids:
        ends.append(ends[-1] + len(one))
    return [again.slice(start, end - start) for start, end in pairwise(ends)]


def hashed(ids: pa.ChunkedArray) -> pl.Series:
    """Ids for `repeated`; an empty one is none."""
    column = pl.Series(ids).cast(pl.String)
    return pl.select(pl.when(column != "").then(column.hash())).to_series()


def refused(declared: pl.Series, allowed: Sequence[str] | None) -> pl.Series:
    """Whether what a row declares is none of what is allowed: float32, null where everything is (`allowed` is None)."""
    if allowed is None:
        return pl.Series([None], dtype=pl.Float32).new_from_index(0, len(declared))
    named = pl.select(pl.when(declared.fill_null("") == "").then(pl.lit(UNDECLARED)).otherwise(declared)).to_series()
    return (~named.is_in(list(allowed))).cast(pl.Float32)


def declared(about: Mapping[str, object], name: str) -> str:
    """What a source's `source.json` says under `name`; empty where it says nothing."""
    said = about.get(name)
    return said if isinstance(said, str) else ""
