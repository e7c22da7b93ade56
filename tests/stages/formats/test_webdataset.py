import io
import json
import tarfile

import pytest

from stages.corpus import example, ledger
from stages.corpus.pictures import read_images
from stages.formats import webdataset as module
from stages.formats.draft import UnreadableError
from stages.formats.webdataset import read_samples
from stages.ingest import Params, Source, ingest


def shard(folder, *members):
    path = folder / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def rows(folder, *members):
    return [str(row) if isinstance(row, UnreadableError) else row for row in read_samples(shard(folder, *members))]


def test_a_samples_pictures_are_the_images_of_its_row(tmp_path):
    members = ("a/0.json", {"x": 1}), ("a/0.jpg", b"one"), ("a/1.png", b"two"), ("a/1.json", {"id": "own"})
    assert rows(tmp_path, *members) == [{"x": 1, "id": "a/0", "images": [b"one"]}, {"id": "own", "images": [b"two"]}]


def test_several_pictures_are_in_the_order_of_their_numbers(tmp_path):
    members = [(f"s.{number}.jpg", str(number).encode()) for number in (10, 2, 1)]
    assert rows(tmp_path, *members, ("s.json", {}))[0]["images"] == [b"1", b"2", b"10"]
    assert rows(tmp_path, ("s.right.PNG", b"r"), ("s.left.png", b"l"), ("s.json", {}))[0]["images"] == [b"l", b"r"]
    assert len(rows(tmp_path, (f"s.{'9' * 60}.jpg", b"1"), ("s.x1y.jpg", b"2"), ("s.json", {}))[0]["images"]) == 2


def test_a_sample_without_pictures_keeps_the_names_its_row_gives(tmp_path):
    assert rows(tmp_path, ("0.json", {"images": ["a.png"]}), ("0.txt", b"a cat")) == [{"images": ["a.png"], "id": "0"}]


def test_samples_may_lie_among_one_another(tmp_path):
    members = ("0.jpg", b"one"), ("1.jpg", b"two"), ("0.json", {}), ("1.json", {})
    assert [row["images"] for row in rows(tmp_path, *members)] == [[b"one"], [b"two"]]


@pytest.mark.parametrize(
    ("members", "row"),
    [
        ([("0.jpg", b"one")], "no_annotation: 0 has no .json in the shard"),
        ([("0.json", b"{")], "not_json: Expecting property name"),
        ([("0.json", b"\xff\xff")], "not_json: "),
        ([("0.json", b"[" * 100_000)], "not_json: "),
        ([("0.json", {}), ("0.json", {})], "repeated_member: the shard has two files of one name for 0"),
        ([("0.json", [1])], "[1]"),
    ],
)
def test_a_sample_that_is_no_row_ends_by_name_and_the_next_is_read(tmp_path, members, row):
    found = rows(tmp_path, *members, ("1.json", {"id": "next"}))
    assert str(found[0]).startswith(row)
    assert found[1:] == [{"id": "next"}]


def test_files_that_belong_to_no_sample_are_passed_over(tmp_path):
    strangers = [(name, b"x") for name in (".DS_Store", "README", "a.b/._0.json")]
    assert rows(tmp_path, *strangers, ("a.b/0.json", {})) == [{"id": "a.b/0"}]


def test_a_link_for_a_picture_is_refused_and_an_enormous_file_is_not_read(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("0.json", "1.json"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    first, second = read_samples(tmp_path / "shard.tar")
    assert str(first) == "image_outside_source: 0.jpg is a link inside the tar"
    assert second == {"id": "1"}
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    assert str(list(read_samples(tmp_path / "shard.tar"))[1]) == "file_too_large: 1.json has more than 0 MiB"


def test_a_broken_shard_is_one_clear_error(tmp_path):
    path = shard(tmp_path, ("0.json", {}))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"shard\.tar is no whole tar"):
        list(read_samples(path))


@pytest.mark.parametrize("format", ["llava", "vision_flan", "messages", "fine_vision"])
def test_a_shard_holds_rows_of_any_format(tmp_path, png, format):
    row = {
        "llava": {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]},
        "vision_flan": {"instance_id": "1", "task_name": "cats", "instruction": "What?", "output": "A cat.", "img_path": "x"},
        "messages": {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]},
        "fine_vision": {"texts": [{"user": "What?", "assistant": "A cat."}]},
    }[format]
    shard(tmp_path, ("0.json", row), ("0.png", png("red")), ("1.json", row), ("1.png", b""), ("2.png", png("blue")))
    unsaid = dict.fromkeys(("hub", "instructions", "images", "licence", "language", "exclude"))
    about = Source(format=format, folder="unused", annotations="shard.tar", origin="human", **unsaid)
    ingest(Params(sources={"cats": about}, shard_rows=1000, shard_mib=1), "cats", tmp_path, tmp_path / "out")
    (only,) = example.read_all(tmp_path / "out" / "examples")
    assert [turn.text for turn in only.turns] == ["<image>\nWhat?", "A cat."]
    assert list(dict(read_images([tmp_path / "out"])).values()) == [png("red")]
    reasons = [line.reason for line in ledger.read(tmp_path / "out" / "ledger.parquet")]
    assert reasons == ["", "empty_image: images", "no_annotation: 2 has no .json in the shard"]
