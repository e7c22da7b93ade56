"""Forgetting: plain classification of pictures the tuning never showed, as Vision-Flan measures it.

An answer is right when the picture's own label is the only one of the set's labels in it. So the known ways to fail all
count as wrong: another label, a list of all labels, an object that is no label, and a description without the label.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stages.benchmarks.benchmark import Item, Marked, Result, read_jsonl, same_number, wanted, write_jsonl
from stages.benchmarks.judges import Judge
from stages.benchmarks.statistics import mean_over_groups

NAME = "forgetting"
HEADLINE = "accuracy"
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
}
PICTURES = {".png", ".jpg", ".jpeg"}


def questions(folder: Path) -> list[Item]:
    """One question for each picture `<set>/<label>/<name>`, naming the set's labels as the published prompt does."""
    items = []
    for one_set in _sets(folder):
        labels = _labels(one_set)
        for label in labels:
            for path in sorted((one_set / label).iterdir(), key=_natural):
                if path.suffix.lower() in PICTURES:
                    name = f"{one_set.name}/{label}/{path.name}"
                    items.append(
                        Item(
                            id=name,
                            task=one_set.name,
                            kind="short",
                            image=f"{NAME}/{name}",
                            text=prompt(labels),
                            truth=label.replace("_", " "),
                            picture=partial(path.read_bytes),
                        )
                    )
    return items


def prompt(labels: Sequence[str]) -> str:
    """The question about a set with these labels."""
    thing = "number" if all(label.isdecimal() for label in labels) else "object"
    named = ", ".join(label.replace("_", " ") for label in labels)
    return f"What is the {thing} in the image? Please only answer a single {thing} in {named}."


def write(folder: Path, model: str, items: Sequence[Item], answers: Sequence[str]) -> None:
    """Write `answers.jsonl`."""
    write_jsonl(
        folder / "answers.jsonl",
        (
            {"question_id": item.id, "prompt": item.text, "text": answer, "model_id": model}
            for item, answer in zip(items, answers, strict=True)
        ),
    )


def score(predictions: Path, reference: Path, judge: Judge) -> Result:
    """The share of right labels in each set, and the mean of the sets."""
    items = questions(reference)
    answers = {row["question_id"]: row["text"] for row in read_jsonl(wanted(predictions / "answers.jsonl", NAME))}
    same_number(len(answers.keys() & {item.id for item in items}), len(items), NAME)
    labels = {one_set.name: [label.replace("_", " ") for label in _labels(one_set)] for one_set in _sets(reference)}
    marked = [
        Marked(
            item.task,
            item.kind,
            item.image,
            item.id,
            item.text,
            item.truth,
            answers[item.id],
            float(named(answers[item.id], labels[item.task]) == {item.truth}),
        )
        for item in items
    ]
    scores = [line.score or 0.0 for line in marked]
    tasks = [line.task for line in marked]
    average = mean_over_groups(scores, tasks, sorted(labels))
    by_set = {one: mean_over_groups(scores, tasks, [one]).value() for one in sorted(labels)}
    return Result({"accuracy": average.value(), "tasks": by_set}, marked, {"accuracy": average})


def named(answer: str, labels: Sequence[str]) -> set[str]:
    """The labels that stand in `answer` as whole words; of two labels one inside the other, the longer counts."""
    # A decimal number is one word: the 0 of "0.43" names no digit.
    words = re.findall(r"\d*\.\d+|[^\W_]+", answer.lower())
    text = " " + " ".join(NUMBER_WORDS.get(word, word) if "0" in labels else word for word in words) + " "
    found = set()
    for label in sorted(labels, key=len, reverse=True):
        if f" {label.lower()} " in text:
            found.add(label)
            text = text.replace(f" {label.lower()} ", "  ")
    return found


def _sets(folder: Path) -> list[Path]:
    found = sorted(path for path in wanted(folder, NAME).iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} holds no set; wanted are pictures <set>/<label>/<name>.png")
    return found


def _labels(one_set: Path) -> list[str]:
    return [path.name for path in sorted(one_set.iterdir(), key=_natural) if path.is_dir()]


def _natural(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name
