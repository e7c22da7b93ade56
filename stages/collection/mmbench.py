"""The MMBench-like set: multiple choice with every rotation of the options, in MMBench's TSV."""

import base64
import csv
from pathlib import Path
from random import Random

from stages.collection.benchmarks import Known, fresh
from stages.collection.drawing import png
from stages.collection.families import FAMILIES, tasks
from stages.collection.scene import Ask, Coins, Scene, shuffled

INSTANCE, ACROSS = "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)"
CATEGORIES = {  # task: category and l2-category, by MMBench's own names
    "shapes+name": ("object_recognition", INSTANCE),
    "shapes+colour": ("attribute_recognition", INSTANCE),
    "space+at": ("spatial_relationship", ACROSS),
    "space+where": ("object_localization", INSTANCE),
    "counting+number": ("object_localization", INSTANCE),
    "text+read": ("ocr", INSTANCE),
    "text+meaning": ("function_reasoning", "attribute_reasoning"),
    "charts+tallest": ("structuralized_imagetext_understanding", "logic_reasoning"),
    "clocks+hour": ("ocr", INSTANCE),
    "odd+where": ("attribute_comparison", ACROSS),
    "street+time": ("image_scene", "coarse_perception"),
    "lights+next": ("future_prediction", "logic_reasoning"),
}
LETTERS = "ABCD"
ROTATION = 1_000_000
"""What each rotation adds to a question's index, as in VLMEvalKit."""
COLUMNS = ["index", "question", "hint", *LETTERS, "answer", "category", "l2-category", "split", "image"]


def write(folder: Path, seed: int, questions: int, known: Known) -> None:
    """Write mmbench.tsv: `questions` questions over all categories in turn, each once per rotation of its options."""
    families = {family.family: family for family in FAMILIES}
    sources = {task: fresh(families[task.partition("+")[0]], seed, f"mmbench/{task}", known) for task in CATEGORIES}
    rows: list[dict[str, str | int]] = []
    for index in range(questions):
        task = tuple(CATEGORIES)[index % len(CATEGORIES)]
        scene, draw = next(sources[task])
        rows += rotations(index, scene, _ask(scene, task, draw), draw)
    rows.sort(key=lambda row: int(row["index"]))
    folder.mkdir(parents=True)
    with (folder / "mmbench.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _ask(scene: Scene, task: str, draw: Random) -> Ask:
    return next(ask for ask in scene.asks(draw, Coins()) if ask.task == task)


def rotations(index: int, scene: Scene, ask: Ask, draw: Random) -> list[dict[str, str | int]]:
    """One row per rotation: the options move on by one place, and the answer's letter with them."""
    options = shuffled(draw, four_options(ask, draw))
    category, level = CATEGORIES[ask.task]
    image = base64.b64encode(png(scene.paint())).decode("ascii")
    rows: list[dict[str, str | int]] = []
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        rows.append(
            {
                "index": index + turn * ROTATION,
                "question": tasks()[ask.task].instructions[0],
                "hint": ask.input,
                **{letter: turned[n] if n < len(turned) else "" for n, letter in enumerate(LETTERS)},
                "answer": LETTERS[turned.index(ask.answer)],
                "category": category,
                "l2-category": level,
                "split": "dev",
                "image": image,
            }
        )
    return rows


def four_options(ask: Ask, draw: Random) -> tuple[str, ...]:
    """The answer among at most three wrong ones: the task's own options if it has some, else other answers it can have."""
    wrong = [value for value in ask.options or ask.among if value != ask.answer]
    return (ask.answer, *draw.sample(wrong, min(3, len(wrong))))
