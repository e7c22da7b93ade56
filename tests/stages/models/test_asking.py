from dataclasses import replace
from pathlib import Path

import pytest

from stages.models.asking import How, ask, batched
from stages.models.question import Question

HOW = How("cpu", threads=1, processes=1, precision="fp32", batch=5)


@pytest.fixture(scope="module")
def questions(png) -> list[Question]:
    shown = [png(colour, (20 + 4 * number, 24)) for number, colour in enumerate(("red", "green", "blue"))]
    asked = ["Is it round?", "What colour is it? " * 4, "Count the shapes."]
    return [
        *(Question(image, text, tokens) for image in shown for text in asked for tokens in (3, 8)),
        Question(None, "Count.", 5),
    ]


def test_a_batch_answers_as_each_question_alone_and_in_the_order_asked(tiny_model: Path, questions):
    assert ask(tiny_model, questions, HOW) == ask(tiny_model, questions, replace(HOW, batch=1))


@pytest.mark.slow
def test_several_processes_answer_as_one(tiny_model: Path, questions):
    assert ask(tiny_model, questions, replace(HOW, processes=2)) == ask(tiny_model, questions, HOW)


def test_questions_with_other_limits_or_without_a_picture_are_never_in_one_batch_and_the_longest_come_first():
    short, long, bare = Question(b"picture", "Is it?", 1), Question(b"picture", "What is it?", 6), Question(None, "Is it?", 6)
    assert batched([short, bare, long, short, short], 2) == [[2], [1], [0, 3], [4]]


def test_questions_about_one_picture_are_asked_together():
    asked = [Question(picture, "Is it? " * number, 1) for number in range(3) for picture in (b"one", b"two", b"three")]

    assert batched(asked, 7) == [[0, 3, 6, 1, 4, 7], [2, 5, 8]]
    assert batched(asked, 2) == [[0, 3], [6], [1, 4], [7], [2, 5], [8]]


def test_no_question_no_answer(tiny_model: Path):
    assert ask(tiny_model, [], HOW) == []
