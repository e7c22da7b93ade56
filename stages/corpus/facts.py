"""What can be told of a row's conversation and of its pictures: the table that the data contract judges."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stages.corpus.boxes import BRACKETS, parsed
from stages.corpus.decoding import Look
from stages.corpus.example import IMAGE

WORD = r"[^\s\p{Z}\p{C}]+"
"""A run of characters that can be seen: an answer of exotic spaces is empty too."""
OPTIONS = re.compile(r"^\s*options:(.*)", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def facts(rows: pa.Table, seen: Mapping[str, Look]) -> pd.DataFrame:
    """The table that the suite judges: a line per row."""
    number = len(rows)
    turns = rows["turns"].combine_chunks()
    flat = turns.flatten()
    of_row = pc.list_parent_indices(turns).to_numpy()
    role, text = flat.field("role"), flat.field("text")
    is_user = pc.equal(role, "user").to_numpy(zero_copy_only=False)
    is_answer = pc.equal(role, "assistant").to_numpy(zero_copy_only=False)
    words = pc.count_substring_regex(text, WORD).to_numpy()
    words_beside_marks = pc.count_substring_regex(pc.replace_substring(text, IMAGE, ""), WORD).to_numpy()
    marks = pc.count_substring(text, IMAGE).to_numpy()
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    first = np.zeros(len(flat), dtype=bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    templated = rows["templated"].to_numpy()[of_row]

    def count(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(of_row[chosen], minlength=number)

    longest = np.zeros(number, dtype=np.int64)
    np.maximum.at(longest, of_row[is_answer], words[is_answer])
    letters = pc.if_else(pc.equal(role, "user"), "u", pc.if_else(pc.equal(role, "assistant"), "a", "?"))
    lists = pa.array(offsets, pa.int32())
    kinds = rows["kind"].to_pylist()
    spoken = _Spoken(text.to_pylist(), is_user, is_answer, offsets)
    return pd.DataFrame(
        {
            "task": rows["task"].to_pandas(),
            "kind": rows["kind"].to_pandas(),
            "origin": rows["origin"].to_pandas(),
            "roles": pc.binary_join(pa.ListArray.from_arrays(lists, letters), "").to_pandas(),
            "empty_answers": count(is_answer & (words == 0)),
            "empty_questions": count(is_user & (words_beside_marks == 0) & ~(first & templated)),
            "longest_answer_words": longest,
            "text": pc.binary_join(pa.ListArray.from_arrays(lists, text), "\n").to_pandas(),
            "marks": np.bincount(of_row, weights=marks * is_user, minlength=number).astype(np.int64),
            "pictures": pc.list_value_length(rows["images"]).to_numpy(),
            "marks_in_answers": np.bincount(of_row, weights=marks * is_answer, minlength=number).astype(np.int64),
            **_picture_facts(rows["images"].to_pylist(), seen),
            "judgement": _each(kinds, "judgement", spoken.first_answer),
            "choice_is_option": _each(kinds, "choice", lambda row: is_option(spoken.questions(row), spoken.first_answer(row))),
            "boxes_within": _each(kinds, "referring", lambda row: boxes_within(spoken.all(row))),
        }
    )


@dataclass(frozen=True)
class _Spoken:
    """Texts of single rows, for the expectations that only a few kinds of rows have."""

    texts: list[str]
    is_user: np.ndarray
    is_answer: np.ndarray
    offsets: np.ndarray

    def _of(self, row: int, chosen: np.ndarray) -> list[str]:
        turns = range(self.offsets[row], self.offsets[row + 1])
        return [self.texts[turn] for turn in turns if chosen[turn]]

    def first_answer(self, row: int) -> str | None:
        return next(iter(self._of(row, self.is_answer)), None)

    def questions(self, row: int) -> str:
        return "\n".join(self._of(row, self.is_user))

    def all(self, row: int) -> str:
        return "\n".join(self.texts[self.offsets[row] : self.offsets[row + 1]])


def _each(kinds: Sequence[str], kind: str, fact: Callable[[int], object]) -> pd.Series:
    return pd.Series([fact(row) if of == kind else None for row, of in enumerate(kinds)], dtype=object)


def _picture_facts(pictures: Sequence[Sequence[str]], seen: Mapping[str, Look]) -> dict[str, pd.Series]:
    """Of each row's pictures the worst: whether all are whole, the shortest and the longest side."""
    whole: list[bool | None] = []
    shortest: list[int | None] = []
    longest: list[int | None] = []
    for digests in pictures:
        found = [seen[digest] for digest in digests]
        verdicts = [one.whole for one in found if one.whole is not None]
        sides = [side for one in found for side in (one.width, one.height) if side is not None]
        whole.append(all(verdicts) if verdicts else None)
        shortest.append(min(sides, default=None))
        longest.append(max(sides, default=None))
    return {
        "pictures_whole": pd.Series(whole, dtype=object),
        "shortest_side": pd.Series(shortest, dtype=float),
        "longest_side": pd.Series(longest, dtype=float),
    }


def is_option(question: str, answer: str | None) -> bool | None:
    """Whether `answer` stands among the options that follow `Options:`; None where the question has no such list."""
    found = OPTIONS.search(question)
    if found is None or answer is None:
        return None
    return _folded(answer).rstrip(".") in _folded(found[1])


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def boxes_within(text: str) -> bool | None:
    """Whether all bracketed numbers in `text` are boxes inside the picture; None where there are none."""
    groups = BRACKETS.findall(text)
    return all(_is_box(group) for group in groups) if groups else None


def _is_box(group: str) -> bool:
    box = parsed(group)
    return box is not None and box.within and box.ordered
