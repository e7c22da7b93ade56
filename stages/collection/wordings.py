"""The same questions in other words than the instructions': as those who ask a benchmark put them.

A model that hears each task in its own few words answers those words and no others; with first weights from noise, all of its
benchmarks then stayed at chance. So a share of the human-labelled rows carries a whole question of its own, as the pre-format
allows.
"""

from collections.abc import Sequence
from random import Random

from stages.collection.scene import Ask

SHARE = {"judgement": 0.4, "choice": 0.4, "short": 0.2}
"""How many of a kind's rows carry their own question."""
LISTED = 10
"""Answers beyond that many are not listed in a question."""


def reworded(ask: Ask, kind: str, instructions: Sequence[str], draw: Random) -> tuple[str, str] | None:
    """The whole question and the answer to it, or None where this row shall keep to its task's instructions."""
    if draw.random() >= SHARE.get(kind, 0.0):
        return None
    if kind == "judgement":
        return draw.choice((ask.input, f"{ask.input} Please answer yes or no.")), ask.answer
    question = "\n".join(part for part in (ask.input, draw.choice(instructions)) if part)
    if kind == "choice" and draw.random() < 0.7:
        letters = dict(zip(ask.options, "ABCDEFGH", strict=False))
        listed = "\n".join(f"{letter}. {option}" for option, letter in letters.items())
        wish = draw.choice(
            ("Answer with the letter and the option.", "Answer with the option's letter from the given choices.")
        )
        return f"{question}\n{listed}\n{wish}", f"{letters[ask.answer]}. {ask.answer}"
    answers = ask.options or ask.among
    if not 0 < len(answers) <= LISTED:
        return None
    return f"{question} Please only answer one of {', '.join(answers)}.", ask.answer
