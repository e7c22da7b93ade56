"""A row as it will be asked: which instruction it gets, and where its pictures stand."""

from dataclasses import replace

import pytest

from stages.corpus.example import Example, Turn
from stages.corpus.instructions import conversation, image_first

INSTRUCTIONS = {("s", "colour"): ["What colour is it?", "Name the colour.", "Which colour do you see?"]}


def row(number: int, *texts: str, images: tuple[str, ...] = (), templated: bool = False) -> Example:
    turns = tuple(Turn(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))
    return Example("s", number, str(number), "colour", "d", "short", "human", images, turns, templated)


def test_the_instruction_of_a_row_hangs_on_the_row_and_the_seed_and_on_nothing_else():
    rows = [row(number, "", "red", templated=True) for number in range(40)]
    drawn = [conversation(one, INSTRUCTIONS, 1).turns[0].text for one in rows]
    assert set(drawn) == set(INSTRUCTIONS["s", "colour"])
    assert drawn == [conversation(one, INSTRUCTIONS, 1).turns[0].text for one in rows]
    assert drawn != [conversation(one, INSTRUCTIONS, 2).turns[0].text for one in rows]


def test_a_task_without_instructions_is_an_error_that_says_where_to_put_them():
    with pytest.raises(ValueError, match=r"row 3 of source s .* task 'shape'.*ingest.sources.s.instructions"):
        conversation(replace(row(3, "", "red", templated=True), task="shape"), INSTRUCTIONS, 1)


@pytest.mark.parametrize("text", ["<image>\nWhat is it?", "What is it?\n<image>", "What <image>is it?"])
def test_a_picture_is_moved_to_the_front_wherever_it_stood(text):
    assert image_first([Turn("user", text), Turn("assistant", "a cat")], 1)[0].text == "<image>What is it?"


@pytest.mark.parametrize(
    ("asked", "moved"),
    [
        ("<image>\nWhy\n\nis it?", "<image>Why\n\nis it?"),
        ("  Why?\n<image>", "<image>  Why?"),
        ("Is <image> like\n<image>\nit?", "<image><image>Is like\nit?"),
        ("<image>\n<image>\nWhy?", "<image><image>Why?"),
    ],
)
def test_marks_move_to_the_front_and_take_only_the_white_space_around_them_along(asked, moved):
    turns = image_first([Turn("user", asked), Turn("assistant", "So.")], asked.count("<image>"))
    assert turns == (Turn("user", moved), Turn("assistant", "So."))
