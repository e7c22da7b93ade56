from pathlib import Path

import pytest

from stages.corpus.example import KINDS, Turn
from stages.formats.annotations import read_rows
from stages.formats.draft import Task, UnreadableError
from stages.formats.vision_flan import lettered, read_row

SITE = Path(__file__).parents[3].parent / "shared" / "samples" / "vision_flan_site"
PRE = {
    "instance_id": "scenes+colour+3",
    "task_name": "scenes+colour",
    "dataset_name": "scenes",
    "img_path": "3.png",
    "input_text": None,
    "options": ["red", "blue"],
    "raw_output": "red",
    "output": "(a) red",
}
TASKS = {"scenes+colour": Task("colours", "choice", ("What colour is it?", "Name the colour.", "Which colour?"))}


def test_a_release_row_is_a_conversation_with_a_task():
    row = {
        "id": "multiinstruct_ok_vqa_162419",
        "image": "./task_imgs/COCO_train2014_000000162419.jpg",
        "task_name": "ok_vqa",
        "conversations": [
            {"from": "human", "value": "What activity might these vehicles been used for?\n<image>"},
            {"from": "gpt", "value": "transportation"},
        ],
    }
    draft = read_row(row, {}, "flan")
    assert (draft.task, draft.kind, draft.domain, draft.templated) == ("ok_vqa", "short", "other", False)
    assert draft.images == ("./task_imgs/COCO_train2014_000000162419.jpg",)


def test_a_row_of_bare_input_waits_for_an_instruction():
    draft = read_row(PRE, TASKS, "tasks")
    assert draft.templated
    assert (draft.kind, draft.domain) == ("choice", "colours")
    assert draft.turns == (Turn("user", "<image>\nOptions: (a) red (b) blue"), Turn("assistant", "(a) red"))


def test_a_row_with_neither_input_nor_options_is_a_mark_alone():
    assert read_row({**PRE, "options": None}, TASKS, "tasks").turns[0].text == "<image>"


def test_input_stands_before_the_options():
    draft = read_row({**PRE, "input_text": "The left one."}, TASKS, "tasks")
    assert draft.turns[0].text == "<image>\nThe left one.\nOptions: (a) red (b) blue"


def test_an_instruction_in_the_row_makes_it_whole_and_nothing_is_said_twice():
    own = {**PRE, "instruction": "Name the colour.\n\nThe left one.\nOptions: (a) red (b) blue", "input_text": "The left one."}
    draft = read_row(own, {}, "tasks")
    assert not draft.templated
    assert draft.turns[0].text == "<image>\nName the colour.\n\nThe left one.\nOptions: (a) red (b) blue"
    assert draft.kind == "choice"
    parts = read_row({**own, "instruction": "Name the colour."}, {}, "tasks")
    assert parts.turns == draft.turns


@pytest.mark.parametrize(
    ("change", "tasks", "reason"),
    [
        ({"output": None}, TASKS, "no_answer"),
        ({"output": 3}, TASKS, "wrong_type: output is int, wanted str"),
        ({"task_name": None}, TASKS, "missing_field: task_name"),
        ({"task_name": "scenes+shape"}, TASKS, "no_instruction: the instructions file has no task scenes+shape"),
        ({}, {}, "no_instruction: neither the row nor an instructions file has one"),
        ({"options": [1, 2]}, TASKS, "wrong_type: options holds int, wanted str"),
        ({"img_path": 3}, TASKS, "wrong_type: img_path holds int, wanted str"),
    ],
)
def test_a_row_no_example_can_be_made_of_says_why(change, tasks, reason):
    with pytest.raises(UnreadableError) as refused:
        read_row({**PRE, **change}, tasks, "tasks")
    assert str(refused.value) == reason


def test_a_row_of_neither_form_has_no_conversation():
    with pytest.raises(UnreadableError, match="no_conversation"):
        read_row({"hello": "world"}, TASKS, "tasks")


def test_options_beyond_the_alphabet_are_lettered_on():
    assert lettered([str(number) for number in range(28)]).endswith("(z) 25 (aa) 26 (ab) 27")


@pytest.mark.skipif(not SITE.is_dir(), reason="the real sample is not on this machine")
@pytest.mark.parametrize(("name", "rows"), [("tasks_web.json", 205), ("data.json", 36)])
def test_every_real_row_becomes_a_draft(name, rows):
    drafts = [read_row(row, {}, "site") for row in read_rows(SITE / name)]
    assert len(drafts) == rows
    for draft in drafts:
        assert [turn.role for turn in draft.turns] == ["user", "assistant"]
        assert draft.turns[0].text.count("<image>") == len(draft.images) == 1
        assert draft.kind in KINDS


@pytest.mark.skipif(not SITE.is_dir(), reason="the real sample is not on this machine")
def test_real_instructions_hold_their_input_and_options_already_and_stay_as_they_are():
    for row in read_rows(SITE / "data.json"):
        assert read_row(row, {}, "site").turns[0].text == "<image>\n" + row["instruction"].strip()
