import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import example, ledger
from stages.corpus.example import Turn
from stages.corpus.pictures import read_images
from stages.formats.draft import Task, UnreadableError
from stages.formats.fine_vision import read_row
from stages.ingest import Params, Source, ingest


def text(user, assistant, **more):
    return {"user": user, "assistant": assistant, **more}


def row(*texts, images=(b"one",), **more):
    return {"images": [{"bytes": content, "path": None} for content in images], "texts": list(texts), **more}


def test_a_row_of_one_text_is_a_question_about_its_picture():
    draft = read_row(row(text("What is it?", "A cat.")), {}, "fine")
    assert draft.turns == (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A cat."))
    assert (draft.images, draft.kind, draft.task, draft.id) == ((b"one",), "short", "fine+short", "")


def test_several_texts_are_one_conversation_and_its_pictures_are_shown_once():
    draft = read_row(row(text("One?", "Yes"), text("Two?", "No"), images=(b"one", b"two")), {}, "fine")
    assert [turn.text for turn in draft.turns] == ["<image>\n<image>\nOne?", "Yes", "Two?", "No"]
    assert [turn.role for turn in draft.turns] == ["user", "assistant"] * 2
    assert (draft.images, draft.kind) == ((b"one", b"two"), "conversation")


@pytest.mark.parametrize("none", [None, []])
def test_a_row_without_pictures_is_text_alone(none):
    draft = read_row({"images": none, "texts": [text("Hi", "Ho")]}, {}, "fine")
    assert (draft.images, draft.turns[0].text) == ((), "Hi")


def test_an_object_of_lists_as_datasets_writes_it_is_the_list_of_texts_it_was():
    draft = read_row({"texts": {"user": ["One?", "Two?"], "assistant": ["Yes", "No"]}}, {}, "fine")
    assert [turn.text for turn in draft.turns] == ["One?", "Yes", "Two?", "No"]


def test_marks_that_stand_in_the_questions_stay_where_they_are():
    assert read_row(row(text("What is it?\n<image>", "A cat.")), {}, "fine").turns[0].text == "What is it?\n<image>"
    later = read_row(row(text("Hi", "Ho"), text("And <image>?", "A cat.")), {}, "fine")
    assert [turn.text for turn in later.turns if turn.role == "user"] == ["Hi", "And <image>?"]


def test_a_mark_in_an_answer_is_no_place_for_a_picture():
    draft = read_row(row(text("What is it?", "It is <image>")), {}, "fine")
    assert [turn.text for turn in draft.turns] == ["<image>\nWhat is it?", "It is <image>"]


@pytest.mark.parametrize(
    ("given_row", "task"),
    [
        (row(text("Is it?", "Yes"), source="vqav2"), "vqav2+judgement"),
        (row(text("Is it?", "Yes", source="tqa")), "tqa+judgement"),
        (row(text("Is it?", "Yes", source="tqa"), text("Why?", "So.", source="tqa")), "tqa+conversation"),
        (row(text("Is it?", "Yes", source="tqa"), text("Why?", "So.", source="aokvqa")), "fine+conversation"),
        (row(text("Is it?", "Yes"), task_name="cats"), "cats"),
    ],
)
def test_a_task_is_named_after_the_data_set_the_row_came_from(given_row, task):
    assert read_row(given_row, {}, "fine").task == task


def test_the_instructions_file_knows_the_kind_of_a_named_task():
    tasks = {"cats": Task("pets", "long", ("Name it.",))}
    draft = read_row(row(text("Is it?", "Yes"), task_name="cats"), tasks, "fine")
    assert (draft.domain, draft.kind) == ("pets", "long")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "no_conversation"),
        ({"texts": []}, "no_conversation"),
        ({"texts": "Hi"}, "wrong_type: texts is str, wanted list"),
        ({"texts": ["Hi"]}, "wrong_type: texts[0] is str, wanted object"),
        ({"texts": [{"user": "Hi"}]}, "missing_field: assistant"),
        ({"texts": [text(None, "Ho")]}, "missing_field: user"),
        ({"texts": [text("Hi", 3)]}, "wrong_type: assistant is int, wanted str"),
        ({"texts": [text("Hi", "Ho")], "images": [None]}, "wrong_type: images holds NoneType, wanted str"),
        (row(text("Hi", "Ho"), images=(None,)), "missing_image: images has neither bytes nor a path"),
        (row(text("Hi", "Ho"), images=(b"",)), "empty_image: images.bytes"),
        (row(text("Hi", "Ho"), source=3), "wrong_type: source is int, wanted str"),
    ],
)
def test_a_row_of_another_form_is_refused_with_the_field(bad, reason):
    with pytest.raises(UnreadableError) as refused:
        read_row(bad, {}, "fine")
    assert str(refused.value) == reason


WORDS = st.sampled_from(["user", "assistant", "source", "bytes", "path", "<image>"])
VALUES = st.recursive(
    st.none() | st.integers() | WORDS | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
REASONS = {"no_conversation", "wrong_type", "missing_field", "missing_image", "empty_image"}


@settings(deadline=None)
@given(VALUES, VALUES, VALUES)
def test_whatever_a_row_holds_it_is_read_or_refused_by_name(texts, images, source):
    try:
        roles = [turn.role for turn in read_row({"texts": texts, "images": images, "source": source}, {}, "fine").turns]
    except UnreadableError as error:
        roles = [str(error).split(":")[0]]
    assert roles[0] in REASONS or roles == ["user", "assistant"] * (len(roles) // 2)


def test_each_row_of_a_parquet_file_ends_in_one_line_of_the_ledger(tmp_path, png):
    rows = [
        row(text("One?", "Yes"), text("Two?", "No"), images=(png("red"), png("blue"))),
        row(text("One?", "Yes"), images=(png("red"),)),
        row(text("One?", "Yes"), images=(None,)),
        row(text("Hi", "Ho"), images=()),
        row(images=(png("red"),)),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    unsaid = dict.fromkeys(("hub", "instructions", "images", "licence", "language", "exclude"))
    about = Source(format="fine_vision", folder="unused", annotations="rows.parquet", origin="human", **unsaid)
    ingest(Params(sources={"fine": about}, shard_rows=1000, shard_mib=1), "fine", tmp_path, tmp_path / "out")
    lines = ledger.read(tmp_path / "out" / "ledger.parquet")
    assert [(line.row, line.reason) for line in lines] == [
        (0, ""), (1, ""), (2, "missing_image: images has neither bytes nor a path"), (3, ""), (4, "no_conversation"),
    ]  # fmt: skip
    assert [len(one.images) for one in example.read_all(tmp_path / "out" / "examples")] == [2, 1, 0]
    assert sorted(dict(read_images([tmp_path / "out"])).values()) == sorted([png("red"), png("blue")])
