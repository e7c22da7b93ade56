import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import example, ledger
from stages.corpus.example import Turn
from stages.corpus.pictures import read_images
from stages.formats.draft import Task, UnreadableError
from stages.formats.messages import read_row
from stages.ingest import Params, Source, ingest

URL = "data:image/png;base64,b25l"  # b"one"


def chat(*contents, images=None, **more):
    """A row in which user and assistant take turns."""
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], "images": images, **more}


def text(words):
    return {"type": "text", "text": words}


IMAGE_HERE = {"type": "image"}


def read(row):
    draft = read_row(row, {}, "chats")
    return draft.images, [turn.text for turn in draft.turns]


def refusal(row):
    with pytest.raises(UnreadableError) as refused:
        read_row(row, {}, "chats")
    return str(refused.value)


def test_a_row_of_text_alone_is_a_conversation_without_pictures():
    draft = read_row(chat("Hi", "Ho", id=7), {}, "chats")
    assert draft.turns == (Turn("user", "Hi"), Turn("assistant", "Ho"))
    assert (draft.id, draft.images, draft.kind, draft.task, draft.templated) == ("7", (), "short", "chats+short", False)


def test_labels_are_read_as_of_llavas_rows():
    tasks = {"bus+colour": Task("streets", "long", ("Say the colours.",))}
    draft = read_row(chat("Hi", "Ho", task_name="bus+colour"), tasks, "chats")
    assert (draft.task, draft.domain, draft.kind) == ("bus+colour", "streets", "long")
    assert read_row(chat("Hi", "Ho", type="detail"), {}, "chats").kind == "description"


@pytest.mark.parametrize(
    ("row", "images", "first"),
    [
        # `images` alone, in each of its forms: the pictures stand before the question.
        (chat("What?", "A cat.", images=["a.png"]), ("a.png",), "<image>\nWhat?"),
        (chat("Which?", "A cat.", images=["a.png", "b.png"]), ("a.png", "b.png"), "<image>\n<image>\nWhich?"),
        (chat("What?", "A cat.", images=[URL]), (b"one",), "<image>\nWhat?"),
        (chat("What?", "A cat.", images=[{"bytes": b"one", "path": "gone.png"}]), (b"one",), "<image>\nWhat?"),
        (chat("What?", "A cat.", images=[{"bytes": None, "path": "a.png"}]), ("a.png",), "<image>\nWhat?"),
        # A mark in the text is a place already.
        (chat("What?\n<image>", "A cat.", images=["a.png"]), ("a.png",), "What?\n<image>"),
        # Parts.
        (chat([text("What?")], [text("A cat.")]), (), "What?"),
        (chat([IMAGE_HERE, text("What?")], [text("A cat.")], images=["a.png"]), ("a.png",), "<image>\nWhat?"),
        (chat([text("Is"), IMAGE_HERE, text("like"), IMAGE_HERE], "No", images=["a", "b"]), ("a", "b"),
         "Is\n<image>\nlike\n<image>"),
        (chat([text("What?"), {"type": "image_url", "image_url": {"url": URL}}], "A cat."), (b"one",), "What?\n<image>"),
        (chat([{"type": "image_url", "image_url": "a.png"}, text("What?")], "A cat."), ("a.png",), "<image>\nWhat?"),
        (chat([{"type": "image", "image": URL}, text("What?")], "A cat."), (b"one",), "<image>\nWhat?"),
        (chat([{"type": "image", "path": "a.png", "text": None}], "A cat."), ("a.png",), "<image>"),
        # A part's own picture takes its own place, and leaves the next one to `images`.
        (chat([IMAGE_HERE, {"type": "image", "image": "own"}, IMAGE_HERE], "No", images=["a", "b"]), ("a", "own", "b"),
         "<image>\n<image>\n<image>"),
    ],
)  # fmt: skip
def test_every_picture_has_its_mark_in_the_order_of_the_conversation(row, images, first):
    found, texts = read(row)
    assert found == images
    assert texts[0] == first
    assert first.count("<image>") == len(images)


def test_pictures_of_later_turns_come_after_those_of_earlier_ones():
    images, texts = read(chat([IMAGE_HERE, text("One?")], "Yes", [text("Two?"), IMAGE_HERE], "No", images=["a", "b"]))
    assert images == ("a", "b")
    assert texts == ["<image>\nOne?", "Yes", "Two?\n<image>", "No"]


def test_pictures_of_the_row_and_of_its_turns_are_never_mixed_up():
    own = [{"type": "image", "image": name} for name in ("x", "y")]
    assert read(chat([*own, IMAGE_HERE, text("Which?")], "No", images=["a"]))[0] == ("x", "y", "a")
    assert read(chat("<image>\nOne?", "Yes", [own[0], text("Two?")], "No", images=["a"]))[0] == ("a", "x")


def test_an_object_of_lists_as_datasets_writes_it_is_the_list_of_objects_it_was():
    columns = {"role": ["user", "assistant"], "content": [{"type": ["image", "text"], "text": [None, "What?"]}, "A cat."]}
    images, texts = read({"messages": columns, "image": "a.png"})
    assert (images, texts) == (("a.png",), ["<image>\nWhat?", "A cat."])


def test_an_empty_list_of_parts_is_a_turn_that_says_nothing():
    assert read(chat([], [])) == ((), ["", ""])


def test_too_many_and_too_few_pictures_are_left_for_the_contract_to_count():
    images, texts = read(chat([IMAGE_HERE, text("What?")], "A cat.", images=["a", "b"]))
    assert (images, texts[0]) == (("a", "b"), "<image>\nWhat?")
    images, texts = read(chat([IMAGE_HERE, text("What?")], "A cat."))
    assert (images, texts[0]) == ((), "<image>\nWhat?")


def test_a_system_turn_is_left_for_the_contract_unless_it_says_nothing():
    said = {"messages": [{"role": "system", "content": "Be kind."}, *chat("Hi", "Ho")["messages"]]}
    assert [turn.role for turn in read_row(said, {}, "chats").turns] == ["system", "user", "assistant"]
    blank = {"messages": [{"role": "system", "content": " "}, *chat("Hi", "Ho")["messages"]]}
    assert [turn.role for turn in read_row(blank, {}, "chats").turns] == ["user", "assistant"]
    assert refusal({"messages": [{"role": "system", "content": ""}]}) == "no_conversation"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no_conversation"),
        ({"messages": []}, "no_conversation"),
        ({"messages": "Hi"}, "wrong_type: messages is str, wanted list"),
        ({"messages": {"role": ["user"], "content": []}}, "wrong_type: messages has lists of different lengths"),
        ({"messages": ["Hi"]}, "wrong_type: messages[0] is str, wanted object"),
        ({"messages": [{"content": "Hi"}]}, "missing_field: role"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "missing_field: content"),
        (chat(3), "wrong_type: content is int, wanted list"),
        (chat(["Hi"]), "wrong_type: content[0] is str, wanted object"),
        (chat([{"text": "Hi"}]), "missing_field: type"),
        (chat([{"type": "text"}]), "missing_field: text"),
        (chat([{"type": "video", "video": "a.mp4"}]), "unknown_part: video"),
        (chat([{"type": "image_url"}]), "missing_field: image_url"),
        (chat([{"type": "image_url", "image_url": {"detail": "low"}}]), "missing_field: url"),
        (chat([{"type": "image", "image": 3}]), "wrong_type: image holds int, wanted str"),
        (chat("Hi", images=[3]), "wrong_type: images holds int, wanted str"),
        (chat("Hi", images=["data:image/png;base64,b25"]), "broken_data_url: images: Incorrect padding"),
    ],
)
def test_a_row_of_another_form_is_refused_with_the_field(row, reason):
    assert refusal(row) == reason


WORDS = st.sampled_from(["messages", "role", "content", "type", "text", "image", "image_url", "url", "images", "user", URL])
VALUES = st.recursive(
    st.none() | st.integers() | WORDS | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
REASONS = {"no_conversation", "wrong_type", "missing_field", "missing_image", "empty_image", "unknown_part"}


@settings(deadline=None)
@given(VALUES, VALUES)
def test_whatever_a_row_holds_it_is_read_or_refused_by_name(messages, images):
    for row in ({"messages": messages, "images": images}, chat(messages, "Ho", images=images)):
        try:
            found = {type(image) for image in read_row(row, {}, "chats").images}
        except UnreadableError as error:
            found = {str(error).split(":")[0]}
        assert found <= {str, bytes} | REASONS


def ingested(folder, name):
    unsaid = dict.fromkeys(("hub", "instructions", "images", "licence", "language", "exclude"))
    about = Source(format="messages", folder="unused", annotations=name, origin="human", **unsaid)
    ingest(Params(sources={"chats": about}, shard_rows=1000, shard_mib=1), "chats", folder, folder / "out")
    found = dict(read_images([folder / "out"]))
    examples = example.read_all(folder / "out" / "examples")
    return [[found[digest] for digest in one.images] for one in examples], ledger.read(folder / "out" / "ledger.parquet")


def test_parquet_rows_bring_their_pictures_along_and_bad_ones_end_by_name(tmp_path, png):
    red, blue = png("red"), png("blue")
    parts = [[{"type": "image", "text": None}, {"type": "text", "text": "What?"}], [{"type": "text", "text": "A cat."}]]
    rows = [
        chat(*parts, images=[{"bytes": red, "path": None}]),
        chat(*parts, images=[{"bytes": red, "path": None}, {"bytes": blue, "path": "x"}]),
        chat(*parts, images=[{"bytes": b"", "path": None}]),
        chat(*parts, images=[{"bytes": None, "path": "gone.png"}]),
        chat([{"type": "text", "text": "Hi"}], [{"type": "text", "text": "Ho"}], images=[]),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pictures, lines = ingested(tmp_path, "rows.parquet")
    assert pictures == [[red], [red, blue], []]
    reasons = [line.reason for line in lines]
    assert reasons[:3] == ["", "", "empty_image: images.bytes"]
    assert reasons[3].startswith("missing_image: gone.png")
    assert reasons[4] == ""


def test_json_lines_bring_data_urls_along(tmp_path, png):
    import base64

    url = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    rows = [chat("What?", "A cat.", images=[url]), chat("What?", "A cat.", images=[url[:-3] + "*=="])]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pictures, lines = ingested(tmp_path, "rows.jsonl")
    assert pictures == [[png("red")]]
    assert [line.reason.split(":")[0] for line in lines] == ["", "broken_data_url"]
