"""The human-labelled tasks, in Vision-Flan's pre-format."""

from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from stages.collection.album import Album
from stages.collection.digits import Digit
from stages.collection.families import imagined, tasks
from stages.collection.scene import Ask, Coins, Scene, yes_no
from stages.collection.wordings import reworded


def scenes(seed: int, composed: int, scans: Iterable[int]) -> Iterator[tuple[Scene, Random]]:
    """Each of `scans` once, then `composed` scenes.

    A scan is drawn once and never again in another ink, or a split by picture would let one scan into both parts.
    """
    for scan in scans:
        draw = Random(f"{seed}/digit/{scan}")
        yield Digit.of(scan, draw), draw
    yield from imagined(seed, "tasks", composed)


def rows(scenes: Iterable[tuple[Scene, Random]], album: Album | None) -> list[dict[str, Any]]:
    """One row per example, with exactly as many Yes as No in each judgement; pictures go into `album`, if there is one.

    A row: {"instance_id": "digits+parity+0", "task_name": "digits+parity", "dataset_name": "digits", "img_path": "….png",
    "input_text": null, "options": ["even", "odd"], "raw_output": "even", "output": "(a) even"}; some carry their whole
    question as "instruction".
    """
    coins = Coins()
    made: list[dict[str, Any]] = []
    numbers: Counter[str] = Counter()
    for scene, draw in scenes:
        name = album.add(scene) if album else ""
        for ask in _with_opposites(scene, scene.asks(draw, coins), draw):
            made.append(_row(ask, numbers[ask.task], name, draw))
            numbers[ask.task] += 1
    return made


def _with_opposites(scene: Scene, asks: Iterable[Ask], draw: Random) -> Iterator[Ask]:
    """Each ask, and behind a judgement one of the opposite answer.

    So Yes and No are equal behind every single picture, and only who compares question and picture can tell them apart.
    """
    for ask in asks:
        yield ask
        if tasks()[ask.task].kind == "judgement":
            yes = ask.answer == "No"
            yield Ask(ask.task, yes_no(yes), scene.judge(draw, yes))


def _row(ask: Ask, number: int, image: str, draw: Random) -> dict[str, Any]:
    row = {
        "instance_id": f"{ask.task}+{number}",
        "task_name": ask.task,
        "dataset_name": ask.task.partition("+")[0],
        "img_path": image,
        "input_text": ask.input or None,
        "options": list(ask.options) or None,
        "raw_output": ask.answer,
        "output": lettered(ask.options, ask.answer) if ask.options else ask.answer,
    }
    if own := reworded(ask, tasks()[ask.task], draw):
        question, answer = own
        row |= {"instruction": question, "input_text": None, "output": answer}
    return row


def lettered(options: tuple[str, ...], answer: str) -> str:
    """`(b) blue`."""
    return f"({'abcdefgh'[options.index(answer)]}) {answer}"


def instructions() -> dict[str, dict[str, Any]]:
    """The instruction file beside the rows."""
    return {
        name: {"domain": task.domain, "kind": task.kind, "instructions": list(task.instructions)}
        for name, task in sorted(tasks().items())
    }
