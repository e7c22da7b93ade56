"""ScienceQA: school questions with options, some with a picture, scored as LLaVA's `eval_science_qa.py` does."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmarks.benchmark import read_jsonl, wanted

NAME = "scienceqa"
LETTERS = "ABCDE"
SPLIT = "test"
SAID = re.compile(r"The answer is ([A-Z]).")
MARK = "<image>"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with what was answered."""

    right: bool
    parsed: bool
    """Whether a letter was found in the answer."""
    pictured: bool
    """Whether it was asked with a picture."""


def printed(predictions: Path, reference: Path | None) -> dict[str, Any]:
    """The figures that LLaVA's script prints.

    Args:
        predictions: Answers as JSONL, {question_id, prompt, text}; or what the script wrote of them, {correct, incorrect}.
        reference: The folder of `problems.json` and `pid_splits.json`; wanted only by answers.

    Returns:
        accuracy and image_accuracy (of questions asked with a picture; None if there are none) in percent, questions, correct,
        image_questions, unanswered and unparsed; the last two count as wrong.

    Raises:
        ValueError: a file is of no such form, or the answers are to other questions.
    """
    reviewed = _reviewed(wanted(predictions, NAME))
    unanswered = 0
    if reviewed is None:
        if reference is None:
            raise ValueError(
                f"{predictions} holds answers alone; name the folder of ScienceQA's problems.json and pid_splits.json with "
                "--reference"
            )
        problems = _problems(reference)
        answers = {str(row["question_id"]): row for row in read_jsonl(predictions)}
        if strange := sorted(answers.keys() - problems.keys()):
            raise ValueError(
                f"{predictions}: {len(strange)} of {len(answers)} answers are to no question of {reference}'s "
                f"{SPLIT} split (first: {strange[0]}); they belong to another version or split"
            )
        unanswered = len(problems) - len(answers)
        answered = [_marked(problem, answers.get(name)) for name, problem in problems.items()]
    else:
        answered = [
            Answered(right, row["parsed_ans"] in tuple(LETTERS), bool(row["is_multimodal"]))
            for right, rows in ((True, reviewed["correct"]), (False, reviewed["incorrect"]))
            for row in rows
        ]
    pictured = [one for one in answered if one.pictured]
    return {
        "accuracy": _percent(answered),
        "image_accuracy": _percent(pictured) if pictured else None,
        "questions": len(answered),
        "correct": sum(one.right for one in answered),
        "image_questions": len(pictured),
        "unanswered": unanswered,
        "unparsed": sum(not one.parsed for one in answered) - unanswered,
    }


def letter(answer: str) -> str | None:
    """The letter that an answer is, begins with (`B. blue`), or tells once (`The answer is B.`); None where it tells none."""
    if answer in tuple(LETTERS):
        return answer
    if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        return answer[0]
    told: list[str] = SAID.findall(answer)
    return told[0] if len(told) == 1 else None


def _marked(problem: dict[str, Any], answer: dict[str, Any] | None) -> Answered:
    if answer is None:
        return Answered(False, False, False)
    said = letter(answer["text"])
    allowed = LETTERS[: len(problem["choices"])]
    right = said is not None and said in allowed and allowed.index(said) == problem["answer"]
    return Answered(right, said is not None, MARK in answer.get("prompt", ""))


def _percent(answered: Sequence[Answered]) -> float:
    return sum(one.right for one in answered) / len(answered) * 100


def _reviewed(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """What LLaVA's script wrote, one JSON object over many lines; None if the file is something else."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return given if isinstance(given, dict) and {"correct", "incorrect"} <= given.keys() else None


def _problems(folder: Path) -> dict[str, dict[str, Any]]:
    """The questions of the test split, in its order."""
    problems = json.loads(wanted(folder / "problems.json", NAME).read_text(encoding="utf-8"))
    names = json.loads(wanted(folder / "pid_splits.json", NAME).read_text(encoding="utf-8"))[SPLIT]
    if missing := [name for name in names if name not in problems]:
        raise ValueError(f"{folder / 'problems.json'} lacks {len(missing)} questions of pid_splits.json (first: {missing[0]})")
    return {name: problems[name] for name in names}
