"""What texts of a conversation may and may not hold, and how answers begin: patterns for Polars, which never look around.

Python reads those alike that name no class of Unicode (`\\p{…}`).
"""

import re
from typing import TypeVar

import polars as pl

Texts = TypeVar("Texts", pl.Expr, pl.Series)

CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
"""Control characters, but for tab and the ends of lines."""
SPECIAL = r"</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>|<\|[^|<>\s]+\|>|\[/?INST\]|<</?SYS>>"
"""What tokenizers of language models take for their own marks: "</s>" in a question would become a real end of text."""
VISIBLE = r"[^\s\p{Z}\p{Cc}\p{Cf}\p{Co}]"
"""A character that can be seen: an answer of exotic spaces is empty too."""
WORD = VISIBLE + "+"
"""A run of characters that can be seen. Of Chinese, which has no spaces, a clause is one.

It measures how long a text is. Modules that compare texts have words of their own, without the punctuation: `marks` whether two
say the same, `ngrams` what they share word for word, `keywords` what they are about.
"""
HAN = re.compile(r"[\u3400-\u9fff]")
"""A Chinese character."""

YES = r"^\W*(?:[Yy][Ee][Ss]\b|(?:是|对|對|有|能|会|會|可以|正确|正確|真))"
"""How an answer that agrees begins, in English or in Chinese."""
NO = r"^\W*(?:[Nn][Oo]\b|(?:否|不|没|沒|无|無|错|錯|假))"
"""How an answer that denies begins."""
UNSURE = r"^\W*(?:是否|对于|對於|有可能|有些|不知|不确定|不確定|不清|不明|无法|無法)"
"""What begins like an answer in Chinese, and is none: whether, as to, maybe, unknown, unclear, cannot."""

OPTIONS = r"(?ims)^\s*options:(.*)"
"""A list of options in a question: all behind the word."""
LETTERED = r"\([A-Za-z]\)|(?:^|\s)[A-Z][.):、．]"
"""The letter of an option in a list: `(a)`, `A.`, `A)`, `A:`."""
LETTER = r"^\s*(?:\(([A-Za-z])\)|([A-Za-z])[.):、．](?:\s|$)|([A-Za-z])\s*$)"
"""The letter an answer begins with, or is; in one of three groups."""


def agrees(answers: Texts) -> Texts:
    """Of each of `answers` whether it begins with Yes."""
    return answers.str.contains(YES) & ~answers.str.contains(UNSURE)


def denies(answers: Texts) -> Texts:
    """Of each of `answers` whether it begins with No."""
    return answers.str.contains(NO) & ~answers.str.contains(UNSURE)
