"""MMMU: college questions of thirty subjects, answers parsed and scored by the rules of its `eval_utils.py`.

A choice is taken from the answer by brackets, then by a letter that stands alone, then by an option's text, the last of
several; where nothing is found the official code draws one, so how often it did is told. An open answer is right if a part of
it that tells the result holds the truth, or a number in it is the truth.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmarks.benchmark import wanted

NAME = "mmmu"
SEED = 42
"""The official draws begin with it, once, and go through the subjects in alphabetical order."""
DECIMALS = 3
"""Of the accuracies that the official code prints."""
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
SUBJECTS = sorted(subject for subjects in DOMAINS.values() for subject in subjects)
MULTIPLE_CHOICE = "multiple-choice"
LEAST_WORDS = 6
"""An answer of fewer words is not searched for an option's text."""
TELLING = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands before a result; in the last part of an answer an equals sign too."""
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 1.2, .2
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with what was answered."""

    id: str
    choice: bool
    truth: str | list[str]
    answer: str
    options: Mapping[str, str] | None
    """Letter → text; None where the answer is a letter already, which nothing has to find."""


def printed(predictions: Path, reference: Path | None) -> dict[str, Any]:
    """The figures that MMMU's own scripts print.

    Args:
        predictions: A folder with `<Subject>/output.json`, one such file, or a file {id: answer}, of which choices are letters.
        reference: `answer_dict_val.json`; wanted only by {id: answer}.

    Returns:
        overall, questions, fallbacks (answers that say nothing, for which a choice was drawn), domains, subjects.

    Raises:
        ValueError: a file is of no such form, or the answers are not to the reference's questions.
    """
    subjects = _subjects(wanted(predictions, NAME), reference)
    draw = random.Random(SEED)  # the same generator as the module's own, seeded alike
    scored: dict[str, list[bool]] = {}
    fallbacks = 0
    for subject in (name for name in SUBJECTS if name in subjects):
        scored[subject] = []
        for one in subjects[subject]:
            if not one.choice:
                right = is_right(one.answer, one.truth)
            elif one.options is None:
                right = _is_one_of(one.answer, one.truth)
            else:
                chosen = choice(one.answer, one.options)
                if chosen is None:
                    fallbacks += 1
                    chosen = draw.choice(list(one.options))
                right = _is_one_of(chosen, one.truth)
            scored[subject].append(right)
    return {
        "overall": _accuracy(list(scored.values())),
        "questions": sum(map(len, scored.values())),
        "fallbacks": fallbacks,
        "domains": {
            domain: _accuracy([scored[name] for name in names if name in scored])
            for domain, names in DOMAINS.items()
            if any(name in scored for name in names)
        },
        "subjects": {name: _accuracy([right]) for name, right in scored.items()},
    }


def choice(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that `answer` chooses, None where it chooses none."""
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    said = f" {answer} "
    for form in ("({})", " {} "):
        places = {letter: said.rfind(form.format(letter)) for letter in options}
        if any(place >= 0 for place in places.values()):
            return max((letter for letter in options if places[letter] >= 0), key=lambda letter: places[letter])
    if len(said.split()) < LEAST_WORDS:
        return None
    places = {letter: said.lower().rfind(text.lower()) for letter, text in options.items()}
    named = [letter for letter in options if places[letter] >= 0]
    return max(named, key=lambda letter: places[letter]) if named else None


def is_right(answer: str, truth: str | Sequence[str]) -> bool:
    """Whether an open answer tells the truth, or one of several."""
    truths = [form for one in ([truth] if isinstance(truth, str) else truth) for form in _forms(one)]
    parts = results(answer)
    said = parts + [number for part in parts for pattern in NUMBERS for number in pattern.findall(part)]
    return any(
        form in truths if isinstance(form, float) else any(isinstance(one, str) and one in form for one in truths)
        for text in said
        for form in _forms(text)
    )


def results(answer: str) -> list[str]:
    """The parts of an open answer that tell its result; all of it where none does."""
    text = answer.strip().strip(".").lower()
    # As officially: the text is lower-case by now, so that only ends of lines divide it, and none of its sentences.
    sentences = re.split(r"\.\s(?=[A-Z])|\n", text)
    found = []
    for number, sentence in enumerate(sentences, start=1):
        marks = (*TELLING, "=") if number == len(sentences) else TELLING
        tails: list[str] = []
        for mark in marks:
            # An empty tail is no result, and the next mark's takes its place, officially even a longer one.
            tail = sentence.split(mark)[-1].strip() if mark in sentence else None
            if tail is not None and (not tails or not tails[-1] or len(tail) < len(tails[-1])):
                tails.append(tail)
        if tails and tails[-1] and tails[-1] not in set(":,.!?;'"):
            found.append(tails[-1])
    return found or [text]


def _forms(text: str) -> list[str] | list[float]:
    """`text` as it is compared: a number to two places, or in lower case, one letter with a space before or behind it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _is_one_of(letter: str, truth: str | Sequence[str]) -> bool:
    return letter == truth if isinstance(truth, str) else letter in truth


def _accuracy(groups: Sequence[Sequence[bool]]) -> float:
    # Summed as officially, by the groups' own accuracies, or a third decimal could be rounded the other way.
    asked = sum(map(len, groups))
    return round(sum(sum(group) / len(group) * len(group) for group in groups) / asked, DECIMALS)


def _subjects(predictions: Path, reference: Path | None) -> dict[str, list[Answered]]:
    if predictions.is_dir():
        files = {path.parent.name: path for path in sorted(predictions.glob("*/output.json"))}
        if not files:
            raise ValueError(f"{predictions} holds no <Subject>/output.json; give such a folder, or one file of answers")
        if strange := sorted(files.keys() - set(SUBJECTS)):
            raise ValueError(f"{predictions}: {', '.join(strange)} is no subject of MMMU; wanted are {', '.join(SUBJECTS)}")
        return {subject: _outputs(path) for subject, path in files.items()}
    given = _json(predictions)
    if isinstance(given, list):
        grouped: dict[str, list[Answered]] = {}
        for one in _outputs(predictions):
            grouped.setdefault(_subject(one.id, predictions), []).append(one)
        return grouped
    if reference is None:
        raise ValueError(f"{predictions} holds answers alone; name MMMU's answer_dict_val.json with --reference")
    return _by_truths(predictions, given, reference)


def _outputs(path: Path) -> list[Answered]:
    answered = []
    for row in _json(path):
        needed = {"id", "question_type", "answer", "response"}
        if row.get("question_type") == MULTIPLE_CHOICE:
            needed |= {"all_choices", "index2ans"}
        if missing := sorted(needed - row.keys()):
            raise ValueError(f"{path}: row {row.get('id')} has no {', '.join(missing)}")
        is_choice = row["question_type"] == MULTIPLE_CHOICE
        options = {letter: row["index2ans"][letter] for letter in row["all_choices"]} if is_choice else None
        answered.append(Answered(row["id"], is_choice, row["answer"], row["response"], options))
    return answered


def _by_truths(path: Path, given: Mapping[str, str], reference: Path) -> dict[str, list[Answered]]:
    truths = _json(wanted(reference, NAME))
    if given.keys() != truths.keys():
        odd = sorted(given.keys() ^ truths.keys())
        raise ValueError(
            f"{path} has {len(given)} answers and {reference} {len(truths)} truths, of which {len(odd)} stand in one of them "
            f"alone (first: {odd[0]}); they belong to different sets of questions"
        )
    grouped: dict[str, list[Answered]] = {}
    for name, answer in given.items():
        truth = truths[name]
        is_choice = truth["question_type"] == MULTIPLE_CHOICE
        one = Answered(name, is_choice, truth["ground_truth"], answer, None)
        grouped.setdefault(_subject(name, path), []).append(one)
    return grouped


def _subject(name: str, path: Path) -> str:
    """The subject in a question's name, `validation_<Subject>_<number>`."""
    subject = "_".join(name.split("_")[1:-1])
    if subject not in SUBJECTS:
        raise ValueError(f"{path}: {name} names no subject of MMMU; wanted is validation_<Subject>_<number>")
    return subject


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
