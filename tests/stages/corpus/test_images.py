import hashlib
import threading

import pytest

from stages.corpus.images import AHEAD, ImageWriter
from stages.corpus.pictures import read_images, stores
from stages.running.compute import Compute


def test_a_picture_lies_once_under_the_hash_of_its_bytes(tmp_path):
    with ImageWriter(tmp_path / "one", 1) as store:
        assert store.add(b"cat") == store.add(b"cat") == hashlib.sha256(b"cat").hexdigest()
        store.add(b"dog")
    assert [content for _, content in read_images([tmp_path / "one"])] == [b"cat", b"dog"]


def test_shards_are_closed_when_full_and_read_in_order(tmp_path):
    contents = [bytes([number]) * 300_000 for number in range(10)]
    with ImageWriter(tmp_path, 1) as store:
        digests = [store.add(content) for content in contents]
    assert [path.name for path in sorted((tmp_path / "images").iterdir())] == [f"{number:05d}.parquet" for number in range(3)]
    assert list(read_images([tmp_path])) == list(zip(digests, contents, strict=True))


def test_more_pictures_than_a_group_holds_all_come_back(tmp_path):
    with ImageWriter(tmp_path, 1) as store:
        digests = [store.add(str(number).encode()) for number in range(250)]
    assert [digest for digest, _ in read_images([tmp_path])] == digests


def test_a_store_without_pictures_is_one_empty_shard(tmp_path):
    with ImageWriter(tmp_path / "text", 1):
        pass
    assert stores(tmp_path) == [tmp_path / "text"]
    assert list(read_images(stores(tmp_path))) == []


def test_what_a_killed_run_left_is_no_store(tmp_path):
    with ImageWriter(tmp_path / ".text.partial", 1):
        pass
    assert stores(tmp_path) == []


class RefusedError(Exception):
    """Why a name has no picture."""


def shelf(pictures):
    """What reads `pictures` by name."""

    def read(name):
        if name not in pictures:
            raise RefusedError(f"no {name}")
        return pictures[name]

    return read


@pytest.mark.parametrize("processes", [1, 2])
def test_pictures_lie_in_the_order_of_their_names_whichever_is_read_first(tmp_path, monkeypatch, processes):
    monkeypatch.setattr("stages.corpus.images.used", lambda: Compute(engine="local", address=None, processes=processes))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    pictures = {f"{number}": f"picture {number}".encode() for number in range(40)}
    later = threading.Event()

    def read(name):
        if name == "1":
            later.set()
        elif name == "0" and processes > 1:
            assert later.wait(60), "the second block waits for the first"
        return pictures[name]

    with ImageWriter(tmp_path, 1) as store:
        found = store.gather(read, list(pictures), RefusedError)
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in pictures.items()}
    assert [content for _, content in read_images([tmp_path])] == list(pictures.values())


def test_a_name_that_is_refused_has_its_reason_and_the_others_their_pictures(tmp_path):
    with ImageWriter(tmp_path, 1) as store:
        found = store.gather(shelf({"a": b"cat", "b": b"dog"}), ["a", "gone", "b"], RefusedError)
    assert list(found) == ["a", "gone", "b"]
    assert isinstance(found["gone"], RefusedError)
    assert str(found["gone"]) == "no gone"
    assert [content for _, content in read_images([tmp_path])] == [b"cat", b"dog"]


def test_a_name_that_comes_twice_is_read_once_and_one_picture_of_two_names_stored_once(tmp_path):
    asked = []

    def read(name):
        asked.append(name)
        return b"cat"

    with ImageWriter(tmp_path, 1) as store:
        found = store.gather(read, ["a", "b", "a"], RefusedError)
    assert sorted(asked) == ["a", "b"]
    assert found["a"] == found["b"]
    assert len(list(read_images([tmp_path]))) == 1


def test_any_other_error_ends_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), ImageWriter(tmp_path, 1) as store:
        store.gather(lambda name: b"%d" % (1 // int(name)), ["1", "0", "2"], RefusedError)


def test_pictures_that_wait_for_their_turn_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.corpus.images.HELD", 2_000)
    most = 0

    def read(name):
        nonlocal most
        most = max(most, store.held)
        return name.encode() * 200

    with ImageWriter(tmp_path, 1) as store:
        store.gather(read, [f"{number:05d}" for number in range(300)], RefusedError)
        assert store.held == 0
    assert most <= (AHEAD * store.threads + 1) * 1_000, "large as they are, one picture is a block"


def test_pictures_of_which_some_come_again_under_other_names_lie_once_in_their_order(tmp_path):
    pictures = {f"{number}": f"picture {number % 70}".encode() for number in range(100)}
    with ImageWriter(tmp_path, 1) as store:
        found = store.gather(shelf(pictures), list(pictures), RefusedError)
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in pictures.items()}
    assert [content for _, content in read_images([tmp_path])] == list(pictures.values())[:70]
