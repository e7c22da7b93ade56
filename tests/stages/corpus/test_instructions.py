"""A row as it will be asked: which instruction it gets, and where its pictures stand."""

from dataclasses import replace

import pytest

from stages.corpus.example import Example, Turn
from stages.corpus.instructions import conversation, draw, image_first, says_how

INSTRUCTIONS = {("s", "colour"): ["What colour is it?", "Name the colour.", "Which colour do you see?"]}


def row(number: int, *texts: str, images: tuple[str, ...] = (), templated: bool = False) -> Example:
    turns = tuple(Turn(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))
    return Example("s", number, str(number), "colour", "d", "short", "human", images, turns, templated)


def drawn(rows: list[Example], seed: int = 1) -> list[str]:
    return [conversation(one, INSTRUCTIONS, seed).turns[0].text for one in rows]


def test_the_instruction_of_a_row_hangs_on_what_it_asks_and_the_seed_and_not_on_where_it_stands():
    rows = [row(number, f"of shape {number}", "red", templated=True) for number in range(40)]
    assert {text.split("\n\n")[0] for text in drawn(rows)} == set(INSTRUCTIONS["s", "colour"])
    assert drawn(rows) != drawn(rows, seed=2)
    moved = [replace(one, row=one.row + 1000, id="another") for one in rows]
    assert drawn(moved) == drawn(rows)
    assert drawn(rows[::2]) == drawn(rows)[::2]


@pytest.mark.parametrize(
    "other",
    [{"source": "t"}, {"images": ("a",)}, {"images": ("a", "a")}, {"turns": (Turn("user", "?"), Turn("assistant", "red"))}],
    ids=lambda other: "".join(other),
)
def test_what_a_row_asks_is_its_source_its_pictures_and_its_questions_and_nothing_else(other):
    one = row(1, "", "red", templated=True)
    assert draw(one, 1, "suffix") == draw(
        replace(one, kind="long", turns=(one.turns[0], Turn("assistant", "blue"))), 1, "suffix"
    )
    assert draw(one, 1, "suffix") != draw(replace(one, **other), 1, "suffix")
    assert draw(one, 1, "suffix") != draw(one, 1, "instruction")


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


SUFFIXES = {"short": ["Answer in a few words.", "Be brief."], "conversation": []}


def test_a_request_for_the_form_of_the_answer_ends_every_question_of_its_kind():
    rows = [row(number, f"<image>\nWhat is {number}?", "red", "And now?", "blue", images=("a",)) for number in range(30)]
    asked = [conversation(one, INSTRUCTIONS, 1, SUFFIXES) for one in rows]
    for before, after in zip(rows, asked, strict=True):
        first, second = (turn.text for turn in after.turns if turn.role == "user")
        assert first.removeprefix(f"<image>What is {before.row}?\n") in SUFFIXES["short"]
        assert second == "And now?\n" + first.split("\n")[-1]
        assert [turn for turn in after.turns if turn.role == "assistant"] == [
            turn for turn in before.turns if turn.role == "assistant"
        ]
    assert {one.turns[0].text.split("\n")[-1] for one in asked} == set(SUFFIXES["short"])


def test_it_stands_behind_the_instruction_of_a_templated_row():
    asked = conversation(row(1, "", "red", templated=True), INSTRUCTIONS, 1, SUFFIXES).turns[0].text.split("\n")
    assert asked[0] in INSTRUCTIONS["s", "colour"]
    assert asked[1] in SUFFIXES["short"]


@pytest.mark.parametrize("kind", ["conversation", "long"])
def test_a_kind_without_suffixes_is_asked_as_it_was(kind):
    one = replace(row(1, "What is it?", "red"), kind=kind)
    assert conversation(one, INSTRUCTIONS, 1, SUFFIXES).turns == one.turns


@pytest.mark.parametrize(
    "question",
    [
        "What is it?\nAnswer the question with one word.",
        "Which is it? (a) red (b) blue\nPlease select the letter of the right option",
        "Is it red? Answer yes or no.",
        "Where is it? Give the coordinates of its box.",
        "Describe it in two sentences.",
        "图中是什么?请用一个词回答。",
    ],
)
def test_a_question_that_says_how_to_answer_or_is_in_chinese_is_not_told_again(question):
    assert says_how(question)
    assert conversation(row(1, question, "red"), INSTRUCTIONS, 1, SUFFIXES).turns[0].text == question


@pytest.mark.parametrize(
    "question",
    [
        "What is it?",
        "Which word does the sign say?",
        "Answer me. Is there one box only?",
        "Options: (a) yes (b) no",
        "Yes or no",
    ],
)
def test_a_question_that_only_sounds_like_it_is_told(question):
    assert not says_how(question)
