"""The gallery: questions with their picture and every model's answer side by side, drawn so that each story is told."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

STORIES = {
    # story: as the reader's choice
    "learned": "learned: wrong at first, right in the end",
    "lost": "lost: right before, wrong in the end",
    "never": "never: wrong from first to last",
    "always": "always: right from first to last",
}
A_STORY = 3
"""Questions of one benchmark shown per story."""
A_TASK = 2
"""Questions shown of each task of the benchmark with the most tasks, of different stories where there are any."""
HALF = 0.5
"""A graded answer counts as right from this score on."""
LONGEST_TEXT = 420
"""Characters of a question or an answer that are shown."""
LONGEST_BESIDE = 48
"""Characters up to which answers stand beside each other; longer ones stand below each other."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said."""

    model: str
    text: str
    score: float | None
    """None where the judge gave no verdict."""

    @property
    def right(self) -> bool:
        """Whether it counts as right."""
        return self.score is not None and self.score >= HALF


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and each model's answer in the order of the models."""

    benchmark: str
    task: str
    kind: str
    image: str
    item: str
    question: str
    truth: str
    answers: tuple[Answer, ...]

    @property
    def story(self) -> str:
        """One of `STORIES`: how right and wrong went from the first model to the last."""
        right = [answer.right for answer in self.answers]
        if right[-1]:
            return "always" if all(right) else "learned"
        return "lost" if any(right) else "never"

    @property
    def is_long(self) -> bool:
        """Whether its answers are too long to stand beside each other."""
        return max(map(len, [self.truth, *(answer.text for answer in self.answers)])) > LONGEST_BESIDE


def read_items(path: Path) -> list[dict[str, Any]]:
    """The lines of items.parquet."""
    items: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return items


def asked(items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[Asked]:
    """The questions that every one of `models` answered, sorted."""
    answers: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for item in items:
        answers[item["benchmark"], item["task"], str(item["item"])].setdefault(item["model"], item)
    return [
        Asked(
            benchmark,
            task,
            first["kind"] or "",
            first["image"] or "",
            item,
            short(first["question"]),
            short(first["truth"]),
            tuple(Answer(model, short(of_model[model]["answer"]), of_model[model]["score"]) for model in models),
        )
        for (benchmark, task, item), of_model in sorted(answers.items())
        if all(model in of_model for model in models)
        for first in [of_model[models[0]]]
    ]


def chosen(questions: Sequence[Asked], seed: int) -> list[Asked]:
    """The questions to show: of each benchmark, some per story, and where it has many tasks some of each task."""
    tasks = defaultdict(set)
    for question in questions:
        tasks[question.benchmark].add(question.task)
    widest = max(tasks, key=lambda benchmark: (len(tasks[benchmark]), benchmark)) if tasks else ""
    groups: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for question in sorted(questions, key=lambda question: _draw(seed, question)):
        groups[question.benchmark, question.task if question.benchmark == widest else question.story].append(question)
    shown: list[Asked] = []
    for benchmark, name in sorted(groups):
        group = groups[benchmark, name]
        if benchmark == widest:
            others = [question for question in group[1:] if question.story != group[0].story]
            shown.extend([group[0], *(others or group[1:])][:A_TASK])
        else:
            shown.extend(group[:A_STORY])
    return sorted(shown, key=lambda question: (question.benchmark, _draw(seed, question)))


def short(text: object) -> str:
    """`text`, cut where it grows too long to be read beside others."""
    whole = "" if text is None else str(text)
    return whole if len(whole) <= LONGEST_TEXT else whole[:LONGEST_TEXT].rsplit(" ", 1)[0] + " …"


def _draw(seed: int, question: Asked) -> str:
    return hashlib.sha256(f"{seed}/{question.benchmark}/{question.task}/{question.item}".encode()).hexdigest()
