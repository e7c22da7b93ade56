import hashlib
import pickle

import polars as pl
import pyarrow.parquet as pq
import pytest

from stages.corpus.images import ImageWriter
from stages.corpus.pictures import Pictures, places, read_images, read_looks, read_rows, shards_of, stores

LOOKS = ["sha256", "width", "height", "whole", "phash"]


def filled(folder, *contents):
    """The sha256 of `contents`, which lie in a store in `folder`."""
    with ImageWriter(folder, 1) as store:
        return [store.add(content) for content in contents]


def test_only_the_wanted_pictures_of_several_stores_are_read_each_once(tmp_path):
    for name in ("b", "a"):
        _, wanted = filled(tmp_path / name, b"shared", name.encode())
    assert [folder.name for folder in stores(tmp_path)] == ["a", "b"]
    assert [content for _, content in read_images(stores(tmp_path))] == [b"shared", b"a", b"b"]
    assert [content for _, content in read_images(stores(tmp_path), {wanted})] == [b"a"]


def test_the_looks_of_all_stores_are_a_row_for_each_picture(tmp_path, png):
    for name in ("b", "a"):
        red, other, broken = filled(tmp_path / name, png("red"), png("green" if name == "a" else "blue"), b"no picture")
    blue = hashlib.sha256(png("blue")).hexdigest()
    table = read_looks(stores(tmp_path), LOOKS)
    assert table.schema.names == LOOKS
    assert table["sha256"].to_pylist() == [red, other, broken, blue]
    assert table["whole"].to_pylist() == [True, True, False, True]
    found = {row["sha256"]: row for row in table.to_pylist()}
    assert found[broken] == {"sha256": broken, "width": None, "height": None, "whole": False, "phash": None}
    assert found[blue]["width"] == 24
    assert read_looks(stores(tmp_path), ["sha256", "phash"]).equals(table.select(["sha256", "phash"]))


def test_there_may_be_no_store(tmp_path):
    assert read_looks([], LOOKS).num_rows == 0
    assert read_looks(stores(tmp_path), LOOKS).schema.names == LOOKS
    assert list(read_images(stores(tmp_path), {"any"})) == []
    assert places([], pl.Series(["any"])).is_empty()


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """The sha256 of a hundred pictures in groups of ten; and what groups of rows were read."""
    monkeypatch.setattr("stages.corpus.images.ROWS_A_GROUP", 10)
    digests = filled(tmp_path, *(str(number).encode() * 1000 for number in range(100)))
    read = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, at, **more: read.append(at) or plain(self, at, **more))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("all of it is read"))
    return digests, read


def test_of_unwanted_pictures_no_byte_is_read(groups, tmp_path):
    digests, read = groups
    wanted = {digests[15], digests[11], digests[77]}
    assert [digest for digest, _ in read_images([tmp_path], wanted)] == [digests[11], digests[15], digests[77]]
    assert read == [1, 7]


def test_a_shard_behind_the_last_wanted_picture_is_not_opened(tmp_path):
    (first, *_) = filled(tmp_path / "a", b"cat", b"dog")
    filled(tmp_path / "b", b"cow")
    (behind,) = shards_of([tmp_path / "b"])
    behind.write_bytes(b"no Parquet")
    assert list(read_images(stores(tmp_path), {first})) == [(first, b"cat")]
    with pytest.raises(ValueError, match="magic bytes"):
        list(read_images(stores(tmp_path), {first, "unknown"}))


def test_a_place_is_a_shard_and_a_group_in_which_the_picture_is_read(groups, tmp_path):
    digests, read = groups
    wanted = [digests[77], digests[11], "unknown"]
    found = places([tmp_path], pl.Series(wanted))
    assert found.rows() == [(digests[11], 0, 1), (digests[77], 0, 7)]
    assert read == []
    (shard,) = shards_of([tmp_path])
    assert [rows["sha256"].to_pylist() for rows in read_rows([shard], ["sha256"], set(wanted))] == [
        [digests[11]],
        [digests[77]],
    ]


def test_a_picture_of_two_stores_is_placed_in_the_first(tmp_path):
    for name in ("b", "a"):
        digests = filled(tmp_path / name, name.encode(), b"shared")
    assert places(stores(tmp_path), pl.Series(digests)).sort("sha256").rows() == sorted(
        [(digests[0], 0, 0), (digests[1], 0, 0)]
    )


def test_a_picture_is_read_when_it_is_asked_for_and_few_groups_are_held(groups, tmp_path):
    digests, read = groups
    pictures = Pictures.stored([tmp_path], [*digests, "unknown"])
    assert read == []
    assert set(pictures.places) == set(digests)
    for number in (15, 11, 77, 15, 99, 42, 3, 15):
        assert pictures[digests[number]] == str(number).encode() * 1000
    assert read == [1, 7, 9, 4, 0], "what was asked for last is held, and of five groups four"
    assert pictures[digests[79]] == b"79" * 1000
    assert read[-1] == 7
    assert pickle.loads(pickle.dumps(pictures.only(digests[:2])))[digests[1]] == b"1" * 1000
