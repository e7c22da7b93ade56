"""The collection's texts without its pictures: what a tokenizer must know before the first picture is drawn."""

from collections.abc import Iterator
from itertools import islice
from random import Random

from stages.collection import human, synthesized
from stages.collection.families import FAMILIES, tasks
from stages.collection.scene import Coins, Scene
from stages.collection.wordings import reworded


def sentences(seed: int, count: int) -> list[str]:
    """`count` texts: every instruction and fixed prompt first, then what is asked and said of drawn scenes in turn.

    All words and forms occur - inputs, options, answers, captions, chats, benchmark questions - in a fixed order.
    """
    return list(islice(_texts(seed), count))


def _texts(seed: int) -> Iterator[str]:
    for task in tasks().values():
        yield from task.instructions
    yield from synthesized.CAPTION_PROMPTS
    yield from synthesized.DETAIL_PROMPTS
    yield "Please answer yes or no."
    coins, number = Coins(), 0
    while True:
        for family in FAMILIES:
            draw = Random(f"{seed}/sentences/{number}")
            number += 1
            yield from _of(family.imagine(draw), draw, coins)


def _of(scene: Scene, draw: Random, coins: Coins) -> Iterator[str]:
    for ask in scene.asks(draw, coins):
        if own := reworded(ask, tasks()[ask.task], draw):
            yield from own
        if ask.input:
            yield ask.input
        if ask.options:
            lettered = [human.lettered(ask.options, option) for option in ask.options]
            yield f"Options: {' '.join(lettered)}"
            yield human.lettered(ask.options, ask.answer)
        else:
            yield ask.answer
    yield scene.caption()
    for _, turns in synthesized.compose(scene, draw):
        for said in turns:
            yield said.question
            yield said.answer
