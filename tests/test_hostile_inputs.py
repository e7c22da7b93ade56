"""What is wrong with a source ends in a named state of the ledger or in one clear error, and no row is lost on the way."""

import base64
import io
import json
import random
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages import curate as curating
from stages import ingest as ingesting
from stages import validate as validating
from stages.corpus import ledger
from stages.corpus.contamination import Contamination
from stages.corpus.coreset import Coreset
from stages.running.section import read_params

PARAMS = read_params(Path(__file__).parents[1] / "params.yaml")
ALLOWED = validating.Params.model_validate(
    {**PARAMS["validate"], "max_side": 4096, "max_answer_words": 100, "max_quarantined": 1.0}
)
CHOICE = curating.Params(
    seed=1,
    connect=curating.Connect.model_construct(sources=[], rows=1),
    duplicates=curating.Duplicates(near=False, distance=0),
    contamination=Contamination.model_construct(benchmarks=[]),
    train=curating.Train(
        sources=["wild"],
        tasks=None,
        rows_per_task=3,
        quotas=curating.Quotas(domains=None, kinds=None),
        coreset=Coreset.model_validate(PARAMS["curate"]["train"]["coreset"]),
    ),
    align=curating.Align.model_construct(sources=[]),
    balance=True,
    held_out=0.2,
)


def picture(seed, format="PNG", size=(24, 24)):
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1])).save(buffer, format)
    return buffer.getvalue()


def talk(image, question="<image>\nWhat is it?", answer="a square", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "x", "image": image, "conversations": turns, **more}


def chain(folder, rows, images="images", format="llava"):
    """The final ledger line of every row, after ingest, validate and curate."""
    (folder / "rows.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    unsaid = dict.fromkeys(("hub", "instructions", "licence", "language", "exclude"))
    source = ingesting.Source(format=format, folder="unused", annotations="rows.json", images=images, origin="human", **unsaid)
    data = folder / "data"
    ingesting.ingest(
        ingesting.Params(sources={"wild": source}, shard_rows=1000, shard_mib=1), "wild", folder, data / "ingest" / "wild"
    )
    (data / "accepted").mkdir()
    validating.validate(ALLOWED, data / "ingest", data / "accepted", data / "validate")
    curating.curate(CHOICE, data / "validate", data / "ingest", data, "1", data / "curate")
    first, second, third = ledger.read_parts(data / "ingest", data / "validate", data / "curate")
    going = ledger.join([first, second, third], whole=False)
    final = [
        line if line.state != ledger.ON else replace(line, state="ready", reason="train") for line in ledger.lines_of(going)
    ]
    assert [line.row for line in final] == list(range(len(first)))
    return final


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """What a stage keeps for its next run is kept below the folder it stands in, which is not the project's here."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def wild(tmp_path):
    """A folder source with everything wrong in it that a folder can have, and two good pictures."""
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "images"
    root.mkdir()
    (root / "good.png").write_bytes(picture(1))
    (root / "good.jpg").write_bytes(picture(2, "JPEG"))
    (root / "cut.jpg").write_bytes(picture(3, "JPEG", (200, 200))[:3000])
    flipped = bytearray(picture(4))
    flipped[60] ^= 255
    (root / "flipped.png").write_bytes(flipped)
    (root / "empty.png").write_bytes(b"")
    (root / "page.jpg").write_text("<html>404 Not Found</html>")
    (root / "tiny.png").write_bytes(picture(5, size=(4, 4)))
    (root / "link.png").symlink_to("../secret.txt")
    return tmp_path


HOSTILE = [
    (talk("good.png"), "ready", "train"),
    (talk("good.jpg", "What is it?\n<image>"), "ready", "train"),
    (talk("cut.jpg"), "quarantined", "picture_decodes_whole"),
    (talk("flipped.png"), "quarantined", "picture_decodes_whole"),
    (talk("page.jpg"), "quarantined", "picture_decodes_whole"),
    (talk("tiny.png"), "quarantined", "picture_not_too_small"),
    (talk("empty.png"), "unreadable", "empty_image"),
    (talk("gone.png"), "unreadable", "missing_image"),
    (talk("../../etc/passwd"), "unreadable", "image_outside_source"),
    (talk("../secret.txt"), "unreadable", "image_outside_source"),
    (talk("/etc/passwd"), "unreadable", "image_outside_source"),
    (talk("link.png"), "unreadable", "image_outside_source"),
    (talk("good.png", answer=""), "quarantined", "answers_not_empty"),
    (talk("good.png", answer=None), "unreadable", "missing_field"),
    ({"id": "x", "image": "good.png", "conversations": [{"from": "human", "value": "<image>\nHi"}]},
     "quarantined", "assistant_speaks_last"),
    ({"id": "x", "image": "good.png", "conversations": []}, "unreadable", "no_conversation"),
    ({"id": "x", "image": "good.png"}, "unreadable", "no_conversation"),
    (talk("good.png", "<image>\nEnd it </s> here."), "quarantined", "text_has_no_special_tokens"),
    (talk("good.png", "<image>\nWhat is <image>?"), "quarantined", "one_mark_per_picture"),
    (talk("good.png", "What is it?"), "quarantined", "one_mark_per_picture"),
    (talk(None), "quarantined", "one_mark_per_picture"),
    (talk("good.png", "<image>\nNUL \0"), "quarantined", "text_has_no_control_characters"),
    (talk("good.png", type="limerick"), "quarantined", "kind_is_known"),
    (talk("good.png", "<image> \ud83d"), "unreadable", "not_unicode"),
    (talk(17), "unreadable", "wrong_type"),
    ("a text", "unreadable", "not_an_object"),
    (talk("good.png"), "duplicate", "exact"),
]  # fmt: skip


def test_every_hostile_row_ends_in_its_named_state(wild):
    final = chain(wild, [row for row, _, _ in HOSTILE])
    ends = [(line.state, ledger.reason_name(line.reason)) for line in final]
    assert ends == [(state, reason) for _, state, reason in HOSTILE]
    assert sum(count.rows for count in ledger.funnel(ledger.table_of(final))) == len(HOSTILE)


def chat(asked, answer="a square", images=(), **more):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": list(images), **more}


def url(content):
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


CHATS = [
    (chat("What is it?", images=["good.png"]), "ready", "train"),
    (chat([{"type": "image_url", "image_url": {"url": url(picture(9))}}, {"type": "text", "text": "What is it?"}]),
     "ready", "train"),
    (chat("What is a square?", "It has four sides."), "ready", "train"),
    ({"messages": [{"role": "system", "content": "Be kind."}, *chat("Why?")["messages"]]}, "quarantined", "roles_are_known"),
    ({"messages": [*chat("What is it?")["messages"], {"role": "tool", "content": "7"}]}, "quarantined", "roles_are_known"),
    (chat([{"type": "image"}, {"type": "text", "text": "What is it?"}]), "quarantined", "one_mark_per_picture"),
    (chat("What is it?\n<image>", images=["good.png", "good.jpg"]), "quarantined", "one_mark_per_picture"),
    (chat("What is it?", [{"type": "image"}], images=["good.png"]), "quarantined", "no_mark_in_answers"),
    (chat("What is it?", [], images=["good.png"]), "quarantined", "answers_not_empty"),
    (chat([{"type": "image"}], images=["good.png"]), "quarantined", "questions_not_empty"),
    (chat("What is it?", images=[url(b"<html>")]), "quarantined", "picture_decodes_whole"),
    (chat("What is it?", images=[url(b"x")[:-1]]), "unreadable", "broken_data_url"),
    (chat("What is it?", images=["http://example.org/a.png"]), "unreadable", "missing_image"),
    (chat("What is it?", images=["../secret.txt"]), "unreadable", "image_outside_source"),
    (chat([{"type": "video", "video": "a.mp4"}]), "unreadable", "unknown_part"),
    (chat(None), "unreadable", "missing_field"),
]  # fmt: skip


def test_every_hostile_chat_ends_in_its_named_state(wild):
    final = chain(wild, [row for row, _, _ in CHATS], format="messages")
    ends = [(line.state, ledger.reason_name(line.reason)) for line in final]
    assert ends == [(state, reason) for _, state, reason in CHATS]


def test_members_of_a_zip_that_climb_out_end_in_the_ledger(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("good.png", picture(1))
        packed.writestr("../../climbed.png", picture(2))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    final = chain(tmp_path, [talk(name) for name in ("good.png", "../../climbed.png", "climbed.png", "link.png")], "images.zip")
    assert [line.state for line in final] == ["ready", "unreadable", "unreadable", "unreadable"]
    assert {ledger.reason_name(line.reason) for line in final[1:]} == {"image_outside_source"}
    assert [path.name for path in tmp_path.rglob("climbed.png")] == []


def test_a_json_file_cut_in_its_middle_is_one_clear_error_and_writes_no_rows(wild):
    rows = json.dumps([talk("good.png")] * 3)
    with pytest.raises(ValueError, match=r"rows\.json is not valid JSON: .* at line 1, column \d+ .* mend it there"):
        chain(wild, rows[: len(rows) // 2])


FIELDS = st.sampled_from(["id", "image", "conversations", "from", "value", "type", "task_name"])
WORDS = st.sampled_from(["good.png", "human", "gpt", "<image>"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=3)
@given(st.lists(VALUES, min_size=30, max_size=60))
def test_no_json_whatever_loses_a_row(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("wild")
    (folder / "images").mkdir()
    (folder / "images" / "good.png").write_bytes(picture(1))
    rows = [talk("good.png"), *rows]
    flat = [one for row in rows for one in (row if isinstance(row, list) else [row])]
    final = chain(folder, rows)
    assert len(final) == len(flat)
    assert {line.state for line in final} <= ledger.STATES.keys()
    assert all(line.reason for line in final)
