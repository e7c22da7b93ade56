from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import TypeVar

import numpy as np
import pytest

from stages.collection.drawing import COLOURS, SHAPES, SIDE, Box, around, canvas, shape
from stages.collection.families import FAMILIES, SHARES, deal, tasks
from stages.collection.scene import Coins, Scene
from stages.collection.shapes import Pair
from stages.collection.street import Street
from stages.collection.words import Sum

S = TypeVar("S", bound=Scene)
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)


def some(family: type[S], count: int = 40) -> Iterator[tuple[S, Random]]:
    for number in range(count):
        draw = Random(f"test/{number}")
        yield family.imagine(draw), draw


@EVERY_FAMILY
def test_a_picture_is_drawn_from_the_facts_alone(family):
    for scene, _ in some(family, 3):
        first, second = scene.paint(), scene.paint()
        assert first.size == (SIDE, SIDE)
        assert first.tobytes() == second.tobytes()


@EVERY_FAMILY
def test_a_scene_serves_each_task_of_its_family_once(family):
    named = {name for name in tasks() if name.startswith(family.family + "+")}
    for scene, draw in some(family):
        asked = [ask.task for ask in scene.asks(draw, Coins())]
        assert len(asked) == len(set(asked))
        assert set(asked) == named


@EVERY_FAMILY
def test_the_answer_of_a_choice_is_one_of_its_options(family):
    for scene, draw in some(family):
        for ask in scene.asks(draw, Coins()):
            if ask.options:
                assert ask.answer in ask.options
            if ask.among:
                assert ask.answer in ask.among


@EVERY_FAMILY
def test_a_question_for_yes_is_never_a_question_for_no(family):
    for scene, draw in some(family):
        yes = {scene.judge(draw, True) for _ in range(20)}
        no = {scene.judge(draw, False) for _ in range(20)}
        assert not yes & no


@EVERY_FAMILY
def test_every_scene_can_be_talked_about(family):
    for scene, _ in some(family, 10):
        said = [*scene.talk(), scene.ponder()]
        assert len(said) >= 4
        for one in said:
            assert one.question.endswith("?")
            assert one.answer.endswith(".")
            assert one.answer[0].isupper()
            assert len(one.answer.split()) >= 4
        assert scene.describe().endswith(".")
        assert len(scene.describe().split()) > len(scene.caption().split())


@EVERY_FAMILY
def test_what_can_be_pointed_at_lies_on_the_canvas_and_has_a_name_of_its_own(family):
    for scene, _ in some(family):
        names = [name for name, _ in scene.things()]
        assert len(names) == len(set(names))
        for _, box in scene.things():
            assert 0 <= box.left < box.right <= SIDE
            assert 0 <= box.top < box.bottom <= SIDE


@EVERY_FAMILY
def test_pictures_of_one_family_differ(family):
    assert len({scene.paint().tobytes() for scene, _ in some(family, 12)}) > 6


def test_a_longer_deal_begins_with_the_shorter_one_and_keeps_the_shares():
    assert deal(500)[:120] == deal(120)
    counts = Counter(deal(sum(SHARES.values())))
    assert counts == SHARES


def test_coins_fall_in_pairs_of_yes_and_no_but_not_in_one_pattern_for_all_tasks():
    coins = Coins()
    tosses = {task: [coins.toss(task) for _ in range(40)] for task in ("one", "two")}

    for falls in tosses.values():
        assert all(first != second for first, second in zip(falls[::2], falls[1::2], strict=True))
    assert tosses["one"] != tosses["two"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_its_box_and_stays_in_it(name):
    image, pen = canvas((0, 0, 0))
    shape(pen, name, around(48, 48, 60), (255, 255, 255))
    rows, columns = np.nonzero(np.asarray(image)[:, :, 0])

    assert rows.min() >= 15
    assert rows.max() <= 80
    assert columns.min() >= 15
    assert columns.max() <= 80
    assert rows.max() - rows.min() >= 52
    assert columns.max() - columns.min() >= 52


def test_a_box_is_written_normalised():
    assert str(Box(0, 24, 48, 96)) == "[0.00, 0.25, 0.50, 1.00]"


def test_the_named_colour_is_the_painted_one():
    for scene, _ in some(Pair, 20):
        pixels = np.asarray(scene.paint())
        for (_, box), colour in zip(scene.things(), scene.colours, strict=True):
            inside = pixels[box.top : box.bottom, box.left : box.right].reshape(-1, 3)
            assert (inside == COLOURS[colour]).all(axis=1).mean() > 0.2


def test_left_is_left_of_right():
    for scene, _ in some(Pair, 40):
        one, two = scene.boxes
        if scene.places[0] == "left":
            assert one.right <= two.left + 4
        if scene.places[0] == "top":
            assert one.bottom <= two.top + 4


def test_sums_are_right_and_never_below_nought():
    for scene, draw in some(Sum, 60):
        result = next(ask.answer for ask in scene.asks(draw, Coins()) if ask.task == "sums+result")
        sign = {"plus": 1, "minus": -1}[scene.operator]
        assert int(result) == scene.first + sign * scene.second >= 0


def test_a_landscape_has_three_things_to_ask_about_and_three_that_are_missing():
    for scene, _ in some(Street, 60):
        assert len(set(scene.present)) == len(scene.present) >= 3
