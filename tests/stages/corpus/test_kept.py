import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.corpus import images as module
from stages.corpus.images import ImageWriter
from stages.corpus.kept import Kept
from stages.corpus.pictures import read_images

MISSING = KeyError


def picture(number: int) -> bytes:
    """A JPEG of some kilobytes."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


class Source:
    """Pictures by name, and which of them were read."""

    def __init__(self, files):
        self.files = dict(files)
        self.version = dict.fromkeys(files, 0)
        self.read_ones = []

    def read(self, name):
        self.read_ones.append(name)
        return self.files[name]

    def stamp(self, name):
        return f"{self.version[name]}" if name in self.files else None

    def change(self, name, content):
        self.files[name] = content
        self.version[name] = self.version.get(name, 0) + 1


def run(folder: Path, source: Source, names, kept: Path | None, mib=0.01):
    """One run over `names` in two calls; what each name gave, and the bytes of every shard."""
    folder.mkdir(parents=True)
    source.read_ones = []
    with ImageWriter(folder, mib, Kept(kept, source.stamp)) as writer:
        half = len(names) // 2
        found = writer.gather(source.read, names[:half], MISSING) | writer.gather(source.read, names[half:], MISSING)
    outcome = {name: one if isinstance(one, str) else type(one).__name__ for name, one in found.items()}
    return outcome, {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def no_new_looks(contents, max_side):
    assert not contents, "they were looked at before"
    return []


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(module, "ROWS_A_GROUP", 4)


@pytest.fixture
def source():
    return Source({f"{number}.jpg": picture(number) for number in range(60)})


@pytest.fixture
def runs(tmp_path, source):
    """A function that runs with what is kept in `tmp_path / "kept"`, and checks that a run without gives the same bytes."""

    def go(names, **more):
        number = len(list(tmp_path.glob("out*")))
        found = run(tmp_path / f"out{number}", source, names, tmp_path / "kept", **more)
        read = list(source.read_ones)
        assert found == run(tmp_path / f"out{number + 1}", source, names, None, **more)
        return found[1], read

    return go


def test_a_picture_is_read_once_and_never_again(runs, source):
    names = list(source.files)
    first, read = runs(names)
    assert sorted(read) == sorted(names)
    assert len(first) > 3
    again, read = runs(names)
    assert read == []
    assert again == first


def test_a_shard_of_the_same_pictures_is_the_old_file_under_a_second_name(runs, source, tmp_path):
    runs(list(source.files))
    runs(list(source.files))
    old, new = (sorted((tmp_path / out / "images").iterdir()) for out in ("out0", "out2"))
    assert [path.stat().st_ino for path in old] == [path.stat().st_ino for path in new]


def test_of_added_pictures_only_they_are_read_wherever_they_are_added(runs, source):
    names = list(source.files)
    runs(names)
    for number in (70, 71, 72):
        source.change(f"{number}.jpg", picture(number))
    assert runs([*names, "70.jpg"])[1] == ["70.jpg"]
    assert runs(["71.jpg", *names, "70.jpg"])[1] == ["71.jpg"]
    assert runs([*names[:30], "72.jpg", *names[30:], "71.jpg"])[1] == ["72.jpg"]


def test_pictures_that_are_gone_or_come_in_another_order_are_not_read_again(runs, source):
    names = list(source.files)
    runs(names)
    assert runs(names[5:50])[1] == []
    # Those of the first and the last rows were forgotten: the run before did not ask for them.
    assert sorted(runs(names[::-1])[1]) == sorted([*names[:5], *names[50:]])


def test_a_file_that_changed_in_place_is_read_again_though_it_is_as_long(runs, source):
    names = list(source.files)
    runs(names)
    changed = bytearray(source.files["7.jpg"])
    changed[-3] ^= 1
    source.change("7.jpg", bytes(changed))
    assert runs(names)[1] == ["7.jpg"]


def test_another_size_of_shard_writes_them_anew_and_reads_nothing(runs, source):
    names = list(source.files)
    runs(names)
    for mib in (0.02, 0.005, 10, 0.01):
        assert runs(names, mib=mib)[1] == []


def test_without_what_was_kept_all_is_as_the_first_time(runs, source, tmp_path):
    names = list(source.files)
    first, _ = runs(names)
    for path in (tmp_path / "kept").iterdir():
        path.unlink()
    again, read = runs(names)
    assert (again, sorted(read)) == (first, sorted(names))


@pytest.mark.parametrize("damage", ["half an index", "no index", "no shard", "another's shard", "empty index"])
def test_what_is_broken_of_it_counts_as_not_kept(runs, source, tmp_path, damage):
    names = list(source.files)
    first, _ = runs(names)
    shard = sorted((tmp_path / "kept").glob("*.parquet"))[1]
    index = shard.with_suffix(".npz")
    if damage == "half an index":
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])
    elif damage == "empty index":
        index.write_bytes(b"")
    elif damage == "no index":
        index.unlink()
    elif damage == "no shard":
        shard.unlink()
    else:
        content = shard.read_bytes()
        shard.unlink()
        shard.write_bytes(content[:-1])
    again, read = runs(names)
    assert again == first
    assert 0 < len(read) < len(names)


class Killed(BaseException):
    """What ends a run in its middle."""


def test_a_run_that_was_killed_leaves_the_shards_it_finished(runs, source, tmp_path):
    names = list(source.files)

    def read(name):
        if name == "50.jpg":
            raise Killed
        return source.read(name)

    (tmp_path / "dead").mkdir()
    with (
        pytest.raises(Killed),
        ImageWriter(tmp_path / "dead", 0.01, Kept(tmp_path / "kept", source.stamp)) as writer,
    ):
        writer.gather(read, names, MISSING)
    _, read_then = runs(names)
    assert 10 <= len(read_then) < 40


def test_embedded_pictures_are_looked_at_once(tmp_path, source, monkeypatch):
    for name in ("first", "again"):
        with ImageWriter(tmp_path / name, 0.01, Kept(tmp_path / "kept")) as writer:
            found = writer.gather(source.read, list(source.files), MISSING)
        assert [digest for digest, _ in read_images([tmp_path / name])] == list(found.values())
        monkeypatch.setattr(module, "looks", no_new_looks)


def test_a_picture_with_another_stamp_and_the_same_bytes_is_read_and_not_looked_at(tmp_path, source, monkeypatch):
    names = list(source.files)
    run(tmp_path / "first", source, names, tmp_path / "kept")
    for name in names:
        source.change(name, source.files[name])
    monkeypatch.setattr(module, "looks", no_new_looks)
    run(tmp_path / "again", source, names, tmp_path / "kept")
    assert sorted(source.read_ones) == sorted(names)


def test_where_neighbours_are_not_wanted_the_source_is_cheaper_than_a_kept_shard(tmp_path, source, monkeypatch):
    names = list(source.files)
    run(tmp_path / "first", source, names, tmp_path / "kept")
    monkeypatch.setattr("stages.corpus.kept.SPARE", 0)
    _, made = run(tmp_path / "again", source, names[::-7], tmp_path / "kept")
    assert sorted(source.read_ones) == sorted(names[::-7])
    assert made == run(tmp_path / "plain", source, names[::-7], None)[1]


def test_names_that_are_refused_are_asked_for_again_in_the_next_run(runs, source):
    names = [*source.files, "99.jpg"]
    assert "99.jpg" in runs(names)[1]
    source.change("99.jpg", picture(99))
    assert runs(names)[1] == ["99.jpg"]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_whatever_changes_between_runs_the_bytes_are_those_of_a_run_that_kept_nothing(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    source = Source({f"{number}": picture(number % 20) for number in range(30)})
    for number in range(3):
        for name in data.draw(st.lists(st.sampled_from(sorted(source.files)), max_size=4)):
            source.change(name, picture(data.draw(st.integers(0, 40))))
        names = data.draw(st.lists(st.sampled_from([*sorted(source.files), "none"]), max_size=50))
        mib = data.draw(st.sampled_from([0.002, 0.01, 1]))
        spare = data.draw(st.sampled_from([0, 2**28]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stages.corpus.kept.SPARE", spare)
            go = partial(run, source=source, names=names, mib=mib)
            assert go(folder / f"a{number}", kept=folder / "kept") == go(folder / f"b{number}", kept=None)


def test_the_old_names_of_a_store_are_left_alone_when_it_is_removed(runs, source, tmp_path):
    names = list(source.files)
    first, _ = runs(names)
    for path in (tmp_path / "out0" / "images").iterdir():
        path.unlink()
    again, read = runs(names)
    assert (again, read) == (first, [])
