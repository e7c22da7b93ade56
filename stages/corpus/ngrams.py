"""Runs of n words as numbers, so that texts are compared by what they share word for word, a column at a time.

A word is a run of letters and digits, whatever its case and width; in scripts that put no spaces between words (Chinese,
Japanese, Thai, …) each sign is one. A run is named by 64 bits that hang on its words and their order alone, on every machine.
"""

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.corpus.example import IMAGE

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{UNSPACED}]|[\p{{L}}\p{{M}}\p{{N}}&&[^{UNSPACED}]]+"
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio, which is odd, so that to multiply by it loses nothing."""


def grams(texts: pl.Series, n: int) -> pl.DataFrame:
    """[text: u32, gram: u64]: each run of `n` words of each text once, the text by its place in `texts`."""
    words = (
        pl.DataFrame({"text": pl.int_range(len(texts), dtype=pl.UInt32, eager=True), "word": texts.cast(pl.String)})
        .with_columns(pl.col("word").str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD))
        .explode("word", empty_as_null=False, keep_nulls=False)
    )
    if len(words) < n:
        return pl.DataFrame(schema={"text": pl.UInt32, "gram": pl.UInt64})
    names = _names(words["word"])
    of = words["text"].to_numpy()
    last = len(names) - n + 1
    run = np.zeros(last, dtype=np.uint64)
    for place in range(n):
        run = (run ^ (run >> np.uint64(31))) * SPREAD + names[place : place + last]
    whole = of[:last] == of[n - 1 :]
    return pl.DataFrame({"text": of[:last][whole], "gram": run[whole]}).unique(maintain_order=True)


def _names(words: pl.Series) -> NDArray[np.uint64]:
    """Of each word 64 bits that are the same on every machine; computed once for each word."""
    known = words.unique(maintain_order=True)
    digests = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in known)
    names = pl.DataFrame({"word": known, "name": np.frombuffer(digests, dtype="<u8").astype(np.uint64)})
    return words.to_frame("word").join(names, on="word", how="left", maintain_order="left")["name"].to_numpy()


def questions(rows: pa.Table) -> pl.DataFrame:
    """[source, row, text]: what each user turn asks in a table of `example.SCHEMA`, a line per turn, without `<image>`."""
    turns = rows["turns"].combine_chunks()
    flat = turns.flatten()
    of_row = pc.list_parent_indices(turns)
    asks = pc.equal(flat.field("role"), "user")
    of_row, text = of_row.filter(asks), pc.replace_substring(flat.field("text").filter(asks), IMAGE, " ")
    return pl.DataFrame(
        {
            "source": pl.Series(rows["source"].take(of_row)),
            "row": pl.Series(rows["row"].take(of_row)),
            "text": pl.Series(text, dtype=pl.String),
        }
    )
