import json
from pathlib import Path

import pytest

from stages.corpus import example, ledger
from stages.corpus.example import KINDS, Turn
from stages.formats.draft import UnreadableError
from stages.formats.svit import FILES, IDS, read_row, rows
from stages.ingest import Params, Source, ingest

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden" / "svit_bbox"


def block(*texts):
    return {"content": [{"from": ("user", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]}


def picture(*blocks, image_id=2389998):
    return {"image_id": image_id, "conversations": list(blocks)}


def drafts(entry, file="data/conversation.json"):
    return [read_row(row, {}, "svit") for row in rows(entry, file)]


def refused(entry, file="data/conversation.json"):
    with pytest.raises(UnreadableError) as reason:
        drafts(entry, file)
    return str(reason.value)


def refers(answer, question="Who is there?"):
    return picture(block(question, answer))


def test_each_block_of_a_picture_is_a_conversation_of_its_own():
    first, second = drafts(picture(block("Who?", "A man.", "Where?", "On a hill."), block("When?", "At noon.")))
    assert (first.id, second.id) == ("2389998#0", "2389998#1")
    assert first.images == second.images == ("2389998.jpg",)
    assert first.turns == (
        Turn("user", "<image>\nWho?"), Turn("assistant", "A man."), Turn("user", "Where?"), Turn("assistant", "On a hill."),
    )  # fmt: skip
    assert second.turns == (Turn("user", "<image>\nWhen?"), Turn("assistant", "At noon."))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("conversation.json", "conversation"),
        ("data/complex_reasoning.json", "reasoning"),
        ("referring_qa.json", "referring"),
        ("detail_description.json", "description"),
        ("part_of_it.json", "short"),
    ],
)
def test_the_name_of_a_raw_file_says_the_kind_and_where_it_does_not_the_answer_does(file, kind):
    (draft,) = drafts(picture(block("Who?", "A man.")), file)
    assert (draft.kind, draft.task, draft.domain) == (kind, f"svit+{kind}", "other")


def test_every_kind_a_name_or_an_id_says_is_one_of_ours():
    assert {*FILES.values(), *IDS.values()} <= set(KINDS)


def test_marks_around_what_is_mentioned_go_and_the_boxes_stay():
    entry = refers(
        "<st>A man<ed> [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0].", "What is near <st>the hill<ed> [0.0, 0.0, 1, 1]?"
    )
    (draft,) = drafts(entry, "mine.json")
    assert draft.turns == (
        Turn("user", "<image>\nWhat is near the hill [0.0, 0.0, 1, 1]?"),
        Turn("assistant", "A man [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0]."),
    )
    assert draft.kind == "referring"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<st>A man<ed> [0.1., 0.2, 0.3, 0.4].", "unparsable_box: [0.1., 0.2, 0.3, 0.4]"),
        ("A man [0.1, 0.2, 0.3].", "unparsable_box: [0.1, 0.2, 0.3]"),
        ("<st>A man<ed> [on the left].", "unparsable_box: [on the left]"),
        ("<st>A man<ed> [].", "unparsable_box: []"),
        ("<st>Men<ed> [[0.1, 0.2, 0.3, 0.4]]", "unparsable_box: ["),
        ("<st>Men<ed> [0.1, 0.2, 0.3, 0.4], [0.1, 0.2", "unparsable_box: [0.1, 0.2"),
        ("<st>Men<ed> [0.1, 0.2, 0.3, 0.4", "unparsable_box: [0.1, 0.2, 0.3, 0.4"),
        ("<st>A man<ed> [0.1, 0.2, 0.3, 1.2]", "box_outside_image: [0.1, 0.2, 0.3, 1.2]"),
        ("<st>A man<ed> [-0.1, 0.2, 0.3, 0.4]", "box_outside_image: [-0.1, 0.2, 0.3, 0.4]"),
        ("<st>A man<ed> [10, 20, 30, 40]", "box_outside_image: [10, 20, 30, 40]"),
        ("<st>A man<ed> [0.3, 0.2, 0.1, 0.4]", "reversed_box: [0.3, 0.2, 0.1, 0.4]"),
    ],
)
def test_brackets_that_hold_no_box_in_the_picture_are_a_reason_by_name(answer, reason):
    assert refused(refers(answer), "data/referring_qa.json") == reason
    assert refused(refers("Here.", answer), "data/referring_qa.json") == reason


def test_a_mention_without_a_box_is_no_fault_and_other_answers_may_hold_brackets():
    assert drafts(refers("<st>A man<ed> and [sic]."), "referring_qa.json")[0].turns[1].text == "A man and [sic]."
    assert drafts(refers("The sign says [24/7]."), "conversation.json")[0].turns[1].text == "The sign says [24/7]."


@pytest.mark.parametrize("answer", ["message is empty", "Message is empty.", ' "message is empty"\n'])
def test_an_answer_that_says_it_is_empty_has_a_reason_of_its_own(answer):
    assert refused(refers(answer), "detail_description.json") == "message_is_empty"
    assert drafts(refers("The box says: message is empty."), "detail_description.json")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image_id": 5}, "no_conversation"),
        (picture(), "no_conversation"),
        ({"image_id": 5, "conversations": "hello"}, "wrong_type: conversations is str, wanted list"),
        (picture("hello"), "wrong_type: conversations is str, wanted list"),
        (picture(None), "no_conversation"),
        (picture({"topic": "hills"}), "no_conversation"),
        (picture({"content": [7]}), "wrong_type: conversations[0] is int, wanted object"),
        ({"conversations": [block("Who?", "A man.")]}, "missing_field: image_id"),
        (picture(block("Who?", "A man."), image_id=[1]), "wrong_type: image_id is list, wanted str"),
        (picture(block("Who?", "A man."), image_id=True), "wrong_type: image_id is bool, wanted str"),
        (
            {"id": "a", "image": 3, "conversations": block("Who?", "A man.")["content"]},
            "wrong_type: image holds int, wanted str",
        ),
        ({"id": "a", "type": 3, "conversations": block("Who?", "A man.")["content"]}, "wrong_type: type is int, wanted str"),
    ],
)
def test_an_object_of_another_form_is_refused_with_the_field(entry, reason):
    assert refused(entry) == reason


def test_turns_without_blocks_are_one_conversation():
    (draft,) = drafts(picture(*block("Who?", "A man.")["content"]))
    assert (draft.images, draft.turns) == (("2389998.jpg",), (Turn("user", "<image>\nWho?"), Turn("assistant", "A man.")))


def in_llavas_form(name, question="<image>\nWho is there?", answer="A man [0.1, 0.2, 0.3, 0.4]."):
    talk = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "vg/VG_100K/1.jpg", "conversations": talk}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (in_llavas_form("svit_conversation_1"), "conversation"),
        (in_llavas_form("svit_complex_1"), "reasoning"),
        (in_llavas_form("svit_detail_1"), "description"),
        (in_llavas_form("svit_referring_1"), "referring"),
        (in_llavas_form("1", "<image>\nWho? Provide the bounding boxes of the mentioned objects."), "referring"),
        (in_llavas_form("1", "<image>\nWho? Include the coordinates for each mentioned object."), "referring"),
        (in_llavas_form("1", "<image>\nWho? Locate the objects with their coordinates."), "referring"),
        (in_llavas_form("1"), "short"),
    ],
)
def test_in_llavas_form_the_id_or_the_end_of_a_question_says_the_kind(row, kind):
    (draft,) = drafts(row, "SVIT_core_150K.json")
    assert draft.kind == kind
    assert draft.images == ("vg/VG_100K/1.jpg",)
    assert draft.turns == tuple(
        Turn(role, turn["value"]) for role, turn in zip(("user", "assistant"), row["conversations"], strict=True)
    )


def test_in_llavas_form_only_referring_answers_must_hold_boxes():
    assert refused(in_llavas_form("svit_referring_1", answer="A man [0.1, 0.2].")) == "unparsable_box: [0.1, 0.2]"
    text_alone = in_llavas_form("sharegpt_1", "Sort it.", "Here: [1, 2, 3, 4], as in <st> or <ed>.")
    del text_alone["image"]
    (draft,) = drafts(text_alone)
    assert (draft.images, draft.turns[1].text) == ((), "Here: [1, 2, 3, 4], as in <st> or <ed>.")
    assert refused(in_llavas_form("svit_detail_1", answer="message is empty")) == "message_is_empty"


def test_every_block_has_a_row_number_and_a_line_and_pictures_are_found_in_both_folders(tmp_path, png):
    for folder, name in (("VG_100K", "4"), ("VG_100K_2", "5")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / f"{name}.jpg").write_bytes(png("red"))
    (tmp_path / "data").mkdir()
    detail = [
        picture(block("Describe it.", "A hill."), image_id=4),
        picture(block("Describe it.", "message is empty"), image_id=4417),
    ]
    talks = [
        picture(block("Who?", "A man."), {"topic": "none"}, block("Why?", "For fun."), image_id=5),
        7,
        {"image_id": 6},
        picture(block("Who?", "A man."), image_id=5),
    ]
    (tmp_path / "data" / "detail_description.json").write_text(json.dumps(detail))
    (tmp_path / "data" / "conversation.json").write_text(json.dumps(talks))
    unsaid = dict.fromkeys(("hub", "instructions", "licence", "language", "exclude"))
    source = Source(format="svit", folder="unused", annotations="data/*.json", images="images", origin="synthesized", **unsaid)
    ingest(Params(sources={"svit": source}, shard_rows=1000, shard_mib=1), "svit", tmp_path, tmp_path / "out")
    assert [(line.row, line.id, line.reason, line.file) for line in ledger.read(tmp_path / "out" / "ledger.parquet")] == [
        (0, "5#0", "", "data/conversation.json"),
        (1, "5#1", "no_conversation", "data/conversation.json"),
        (2, "5#2", "", "data/conversation.json"),
        (3, "", "not_an_object: the row is int", "data/conversation.json"),
        (4, "6", "no_conversation", "data/conversation.json"),
        (5, "5#0", "", "data/conversation.json"),
        (6, "4#0", "", "data/detail_description.json"),
        (7, "4417#0", "message_is_empty", "data/detail_description.json"),
    ]
    examples = example.read_all(tmp_path / "out" / "examples")
    assert [(one.row, one.kind) for one in examples] == [
        (0, "conversation"), (2, "conversation"), (5, "conversation"), (6, "description"),
    ]  # fmt: skip


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden cases (../shared) are not on this machine")
def test_the_golden_rows_of_its_form_are_read_block_by_block():
    first, second = json.loads((GOLDEN / "input.json").read_text())
    reasons = []
    for row in (*rows(first, "referring_qa.json"), *rows(second, "referring_qa.json")):
        try:
            reasons.append(read_row(row, {}, "svit").id)
        except UnreadableError as error:
            reasons.append(str(error))
    assert reasons == ["2389998#0", "unparsable_box: [0.1, 0.2, 0.3]", "unparsable_box: [0.1., 0.2, 0.3, 0.4]"]


def test_the_blocks_of_a_shards_object_keep_its_pictures():
    entry = {**picture(block("Who?", "A man.")), "images": [b"bytes"]}
    assert [read_row(one, {}, "s").images for one in rows(entry, "referring_qa.json")] == [(b"bytes",)]
