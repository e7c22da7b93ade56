"""The same questions in other words than the instructions': as those who ask a benchmark put them.

A model that hears each task in its own few words answers those words and no others; with first weights from noise, all of its
benchmarks then stayed at chance. So a share of the human-labelled rows carries a whole question of its own, as the pre-format
allows. It is the manner that is taught - "What is the … in the image?", the answers listed, options behind letters - and no
benchmark's whole prompt but for judgements, where nothing is left to vary.

Options stand in a drawn order, and the answer is the option's words. A model of two million parameters does not learn to look
up the letter: taught "B. odd" behind options in their usual order, it named the right option in 0.93 of held-out rows and gave
it the letter it always had. So MMBench, which turns its options, was answered worse than by chance.
"""

from random import Random

from stages.collection.families import Task
from stages.collection.scene import Ask, options_with, shuffled

SHARE = {"judgement": 0.4, "choice": 0.4, "short": 0.35}
"""How many of a kind's rows carry their own question."""
SOUGHT = 0.6
"""How many of those ask what is sought, where the task says it, and not by an instruction."""
LETTERED = {"choice": 0.7, "short": 0.45}
"""How many of those have options behind letters; the others list the answers in a sentence."""
OPTIONS = 4
"""Options behind letters, of a task that has none of its own; of fewer answers all."""
LISTED = 10
"""Answers beyond that many are not listed in a sentence."""
WISHES = ("Answer with the option's letter or the option itself.", "Answer with an option from the given choices directly.")


def reworded(ask: Ask, task: Task, draw: Random) -> tuple[str, str] | None:
    """The whole question and the answer to it, or None where this row shall keep to its task's instructions."""
    if draw.random() >= SHARE.get(task.kind, 0.0):
        return None
    if task.kind == "judgement":
        return draw.choice((ask.input, f"{ask.input} Please answer yes or no.")), ask.answer
    sought = draw.choice(task.sought) if task.sought and draw.random() < SOUGHT else None
    asked = f"What is the {sought}?" if sought else draw.choice(task.instructions)
    question = "\n".join(part for part in (ask.input, asked) if part)
    if draw.random() < LETTERED[task.kind]:
        return _behind_letters(question, ask, draw)
    return _in_a_sentence(question, sought, ask, draw)


def _behind_letters(question: str, ask: Ask, draw: Random) -> tuple[str, str] | None:
    if not (ask.options or ask.among):
        return None
    listed = shuffled(draw, ask.options) or options_with(draw, ask.answer, ask.among, min(OPTIONS, len(ask.among)))
    lines = (f"{letter}. {option}" for letter, option in zip("ABCDEFGH", listed, strict=False))
    return "\n".join((question, *lines, draw.choice(WISHES))), ask.answer


def _in_a_sentence(question: str, sought: str | None, ask: Ask, draw: Random) -> tuple[str, str] | None:
    answers = ask.among or ask.options
    if not 0 < len(answers) <= LISTED:
        return None
    wish = "Please only answer one of"
    if sought:
        noun = sought.split()[0]
        wish = draw.choice((wish, f"Please answer with a single {noun} from", f"Please only answer the {noun}, one of"))
    return f"{question} {wish} {', '.join(answers)}.", ask.answer
