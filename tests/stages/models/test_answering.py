import io
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from stages.models.answering import Answerer, Question, _message


@pytest.fixture(scope="module")
def questions(png) -> list[Question]:
    shown = [png(colour, (20 + 4 * number, 24)) for number, colour in enumerate(("red", "green", "blue"))]
    asked = ["Is it round?", "What colour is it? " * 4, "Count the shapes."]
    return [
        *(Question(image, text, tokens) for image in shown for text in asked for tokens in (3, 8)),
        Question(None, "Count.", 5),
    ]


def test_a_batch_answers_as_each_question_alone_and_in_the_order_asked(tiny_model: Path, questions):
    together = Answerer(tiny_model, "cpu", 1, "fp32", batch=5).answer(questions)
    alone = Answerer(tiny_model, "cpu", 1, "fp32", batch=1)
    assert together == [alone.answer([question])[0] for question in questions]


def test_an_answer_is_cut_where_its_question_says(tiny_model: Path, png):
    answerer = Answerer(tiny_model, "cpu", 1, "fp32", batch=4)
    cut, asked = [], answerer.model.generate

    def generate(**inputs):
        cut.append((inputs["max_new_tokens"], len(inputs["input_ids"])))
        return asked(**inputs)

    answerer.model.generate = generate
    answerer.answer([Question(png("red"), "Is it round?", tokens) for tokens in (6, 1, 1)])
    assert cut == [(1, 2), (6, 1)], "questions with other limits are never in one batch"


def test_no_question_no_answer(tiny_model: Path):
    assert Answerer(tiny_model, "cpu", 1, "fp32", batch=4).answer([]) == []


def test_a_picture_of_a_format_that_the_corpus_refuses_is_not_opened():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PCX")
    with pytest.raises(UnidentifiedImageError):
        _message(Question(buffer.getvalue(), "Is it round?", 3))
