import hashlib

from stages.corpus.images import ImageWriter, read_images, stores


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


def test_only_the_wanted_pictures_of_several_stores_are_read_each_once(tmp_path):
    for name in ("b", "a"):
        with ImageWriter(tmp_path / name, 1) as store:
            store.add(b"shared")
            wanted = store.add(name.encode())
    assert [folder.name for folder in stores(tmp_path)] == ["a", "b"]
    assert [content for _, content in read_images(stores(tmp_path))] == [b"shared", b"a", b"b"]
    assert [content for _, content in read_images(stores(tmp_path), {wanted})] == [b"a"]


def test_a_store_without_pictures_is_one_empty_shard(tmp_path):
    with ImageWriter(tmp_path / "text", 1):
        pass
    assert stores(tmp_path) == [tmp_path / "text"]
    assert list(read_images(stores(tmp_path))) == []


def test_what_a_killed_run_left_is_no_store(tmp_path):
    with ImageWriter(tmp_path / ".text.partial", 1):
        pass
    assert stores(tmp_path) == []
