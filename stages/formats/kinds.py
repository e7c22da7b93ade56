"""The kind of an answer: as upstream declares it, or else inferred from the conversation by fixed rules."""

import re
from collections.abc import Sequence

from stages.corpus.example import LLAVA_KINDS, Turn
from stages.corpus.text import HAN, OPTIONS

SHORT_WORDS = 10
"""An answer of at most so many words is short. Vision-Flan's median is 4; MMInstruct's long answers start at a sentence."""
HAS_OPTIONS = re.compile(OPTIONS)
YES_OR_NO = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)
"""All of an answer. A declared judgement begins as `text.YES` and `text.NO` say; to be taken for one undeclared, an answer must
say nothing else, and in English, for of a single sign in Chinese (有, 会, 真) nobody knows."""


def declared(kind: str) -> str:
    """An upstream name of a kind in our words; an unknown one stays as it is, for the contract to refuse by name."""
    return LLAVA_KINDS.get(kind, kind)


def inferred(turns: Sequence[Turn]) -> str:
    """The kind of a conversation that declares none; the first rule that fits.

    Several answers: conversation. Options in the question: choice. Nothing but yes or no: judgement. At most
    `SHORT_WORDS` words: short. Else long. Chinese is written without spaces: two of its characters count as a word.
    """
    answers = [turn.text for turn in turns if turn.role == "assistant"]
    if len(answers) > 1:
        return "conversation"
    if any(HAS_OPTIONS.search(turn.text) for turn in turns if turn.role == "user"):
        return "choice"
    if answers and YES_OR_NO.fullmatch(answers[0]):
        return "judgement"
    return "short" if not answers or _words(answers[0]) <= SHORT_WORDS else "long"


def _words(text: str) -> int:
    return len(HAN.sub(" ", text).split()) + (len(HAN.findall(text)) + 1) // 2
