import io
from dataclasses import replace

import pytest
import torch
from PIL import Image, UnidentifiedImageError

from stages.models.answering import Answerer, _message
from stages.models.question import Question

OPTIONS = ("Yes", "No", "a red circle", "one")


@pytest.fixture
def answerer(tiny_model) -> Answerer:
    return Answerer(tiny_model, "cpu", 1, "fp32")


def about(*pictures: bytes | None) -> list[Question]:
    """Questions of several lengths about each."""
    return [Question(picture, "Is it round? " * times, 4) for times in (1, 3) for picture in pictures]


def test_a_picture_goes_through_the_tower_once_for_all_questions_about_it(answerer, png):
    questions = about(png("red"), png("green"))
    shown = []
    answerer.model.base_model.vision_tower.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))

    once = answerer(questions)
    answerer.shares = False
    apart = answerer(questions)

    assert shown == [2, 4]
    assert once == apart == [answer for question in questions for answer in answerer([question])]


def test_the_likeliest_option_is_the_one_that_is_likeliest_when_each_is_asked_alone(answerer, png):
    questions = [replace(question, options=OPTIONS) for question in about(png("red"), png("blue"), None)]

    likely = [answerer.likelihoods([question])[0] for question in questions]

    for question, values in zip(questions, likely, strict=True):
        for option, value in zip(OPTIONS, values, strict=True):
            ids = answerer._processed([question])
            ends = torch.tensor([answerer._ending(question, answerer._words(question), option)])
            words = torch.cat([ids["input_ids"], ends], 1)
            plain = {name: ids[name] for name in ids if name not in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                logits = answerer.model(input_ids=words, **plain).logits[0]
            told = torch.log_softmax(logits[-1 - ends.shape[1] : -1], -1).gather(1, ends.T).sum()
            assert value == pytest.approx(float(told), abs=1e-4)
    best = [OPTIONS[max(range(len(OPTIONS)), key=values.__getitem__)] for values in likely]
    assert answerer(questions) == best


def test_options_of_a_family_that_is_not_proved_are_refused(answerer, png):
    answerer.shares = False
    with pytest.raises(ValueError, match=r"options of a llava cannot be scored .* answer\.options to generate"):
        answerer([replace(question, options=OPTIONS) for question in about(png("red"))])


def test_an_option_that_is_no_word_of_its_own_is_refused(answerer, png):
    with pytest.raises(ValueError, match=r"the option '' cannot be told .* answer\.options to generate"):
        answerer([replace(question, options=("Yes", "")) for question in about(png("red"))])


def test_a_picture_of_a_format_that_the_corpus_refuses_is_not_opened():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PCX")
    with pytest.raises(UnidentifiedImageError):
        _message(Question(buffer.getvalue(), "Is it round?", 3))
