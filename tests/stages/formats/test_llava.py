import pytest

from stages.corpus.example import Turn
from stages.formats.draft import Task, UnreadableError
from stages.formats.llava import read_row

REAL = {
    "id": "000000033471",
    "image": "000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."},
        {"from": "human", "value": "What feature can be seen on the back of the bus?"},
        {"from": "gpt", "value": "The back of the bus features an advertisement."},
    ],
}


def test_a_row_of_several_turns_keeps_all_of_them_in_order():
    draft = read_row(REAL, {}, "chats")
    assert draft.id == "000000033471"
    assert draft.images == ("000000033471.jpg",)
    assert [turn.role for turn in draft.turns] == ["user", "assistant", "user", "assistant"]
    assert draft.turns[0].text == "<image>\nWhat are the colors of the bus in the image?"
    assert (draft.kind, draft.task, draft.templated) == ("conversation", "chats+conversation", False)


def test_a_row_without_an_image_is_text_alone():
    row = {"id": 7, "model": "", "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Ho"}]}
    draft = read_row(row, {}, "chats")
    assert (draft.id, draft.images) == ("7", ())
    assert draft.turns == (Turn("user", "Hi"), Turn("assistant", "Ho"))


def test_the_mark_may_stand_last_and_images_may_be_a_list():
    row = {"image": ["a.png", "b.png"], "conversations": [{"from": "human", "value": "Which?\n<image>\n<image>"}]}
    draft = read_row(row, {}, "chats")
    assert draft.images == ("a.png", "b.png")
    assert draft.turns[0].text.endswith("<image>")


def test_a_declared_type_decides_the_kind():
    assert read_row({**REAL, "type": "detail"}, {}, "chats").kind == "description"
    assert read_row({**REAL, "type": "referring"}, {}, "chats").kind == "referring"


def test_the_instructions_file_knows_the_domain_and_kind_of_a_named_task():
    tasks = {"bus+colour": Task("streets", "long", ("Say the colours.",))}
    draft = read_row({**REAL, "task_name": "bus+colour"}, tasks, "chats")
    assert (draft.task, draft.domain, draft.kind, draft.templated) == ("bus+colour", "streets", "long", False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": None}, "no_conversation"),
        ({"conversations": []}, "no_conversation"),
        ({"conversations": "hello"}, "wrong_type: conversations is str, wanted list"),
        ({"conversations": ["hello"]}, "wrong_type: conversations[0] is str, wanted object"),
        ({"conversations": [{"from": "human"}]}, "missing_field: value"),
        ({"conversations": [{"from": "human", "value": 3}]}, "wrong_type: value is int, wanted str"),
        ({"image": 3}, "wrong_type: image holds int, wanted str"),
        ({"image": {"bytes": ""}}, "wrong_type: image.bytes is str, wanted bytes"),
        ({"id": [1]}, "wrong_type: id is list, wanted str"),
        ({"type": 1}, "wrong_type: type is int, wanted str"),
    ],
)
def test_a_row_of_another_form_is_refused_with_the_field(change, reason):
    with pytest.raises(UnreadableError) as refused:
        read_row({**REAL, **change}, {}, "chats")
    assert str(refused.value) == reason


def test_a_role_nobody_knows_is_left_for_the_contract():
    assert read_row({"conversations": [{"from": "system", "value": "Be kind."}]}, {}, "chats").turns[0].role == "system"
