import re
from collections import Counter
from random import Random

import pytest

from stages.benchmarks import forgetting, mmbench
from stages.collection.digits import Digit
from stages.collection.families import FAMILIES, Task, tasks
from stages.collection.scene import Ask, Coins, Scene
from stages.collection.wordings import LISTED, WISHES, reworded

BOX = Task("boxes", "short", ("Name the colour of the box.",), ("colour of the box",))
RED = Ask("boxes+colour", "red", among=("red", "green", "blue", "yellow", "purple"))


def questions(ask: Ask, task: Task, rows: int = 400) -> list[tuple[str, str]]:
    drawn = (reworded(ask, task, Random(number)) for number in range(rows))
    return [own for own in drawn if own]


def of_a_scene(family: type[Scene], number: int) -> list[tuple[Ask, str, str]]:
    draw = Random(f"{family.family}/{number}")
    asks = family.imagine(draw).asks(draw, Coins())
    return [(ask, *own) for ask in asks if (own := reworded(ask, tasks()[ask.task], draw))]


def test_what_is_sought_is_asked_for_beside_the_instruction_and_the_wish_names_its_noun():
    asked = [question for question, _ in questions(RED, BOX)]

    assert {question.splitlines()[0].partition("?")[0] for question in asked if "What is" in question} == {
        "What is the colour of the box"
    }
    assert any(question.startswith("Name the colour of the box.") for question in asked)
    assert any(question.endswith("a single colour from red, green, blue, yellow, purple.") for question in asked)


def test_options_behind_letters_stand_anywhere_and_the_answer_is_the_options_words():
    lettered = [(question, answer) for question, answer in questions(RED, BOX) if "\nA. " in question]
    places = Counter(letter for question, _ in lettered for letter in re.findall(r"^([A-Z])\. red$", question, re.M))

    assert {answer for _, answer in lettered} == {"red"}
    assert set(places) == set("ABCD")
    assert max(places.values()) < 2 * min(places.values())
    assert {question.splitlines()[-1] for question, _ in lettered} == set(WISHES)


def test_a_choice_lists_all_its_own_options_and_another_task_four_at_most():
    choice = Task("boxes", "choice", ("Pick one.",), ())
    own = Ask("boxes+pick", "a", options=("a", "b", "c", "d", "e"))
    few = Ask("boxes+lid", "open", among=("open", "shut"))

    def lengths(ask: Ask, task: Task) -> set[int]:
        return {len(re.findall(r"^[A-Z]\. ", question, re.M)) for question, _ in questions(ask, task)} - {0}

    assert (lengths(own, choice), lengths(RED, BOX), lengths(few, BOX)) == ({5}, {4}, {2})


def test_answers_that_cannot_be_listed_are_asked_for_by_the_instruction_alone():
    many = Ask("boxes+name", "0", among=tuple(str(number) for number in range(LISTED + 1)))

    assert questions(Ask("boxes+name", "red box"), BOX) == []
    assert all("\nA. " in question for question, _ in questions(many, BOX))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_the_answer_always_stands_in_its_question(family: type[Scene]):
    for number in range(40):
        for ask, question, answer in of_a_scene(family, number):
            assert answer in ("Yes", "No") or re.search(rf"(\b|\. ){re.escape(answer)}\b", question), question
            assert answer == ask.answer


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_no_two_tasks_behind_a_picture_seek_the_same(family: type[Scene]):
    sought = [thing for name, task in tasks().items() if name.startswith(f"{family.family}+") for thing in task.sought]
    assert len(sought) == len(set(sought))


def test_the_forgetting_benchmarks_question_is_one_about_what_is_seen_but_no_row_carries_it():
    prompt = forgetting.prompt([str(label) for label in range(10)])
    question, wish = prompt.split("? ")
    asked = {question for number in range(2000) for _, question, _ in of_a_scene(Digit, number)}
    same = {text for text in asked if text.startswith(f"{question}?")}

    assert question == f"What is the {tasks()['digits+reading'].sought[0]}"
    assert len(same) > 3
    assert not any(wish in text for text in asked)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_no_row_carries_what_a_benchmark_requests(family: type[Scene]):
    asked = {question for number in range(20) for _, question, _ in of_a_scene(family, number)}
    requests = [
        mmbench.REQUEST,
        *(forgetting.prompt(labels).split("? ")[1][:30] for labels in (["0", "1"], ["circle", "star"])),
    ]

    assert asked
    assert [text for text in asked if any(request in text for request in requests)] == []
