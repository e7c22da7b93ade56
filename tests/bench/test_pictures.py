import json

import pytest

from bench import pictures as bench
from bench.pictures import compare, damage, draw, libjpeg_alone, ours, pillow_sha256_imagehash, second_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return folder, draw(folder / "pictures", 12)


def test_pictures_are_the_same_on_every_run_and_no_two_are_alike(drawn, tmp_path):
    folder, names = drawn
    contents = [(folder / "pictures" / name).read_bytes() for name in names]

    assert len(set(contents)) == len(names)
    assert draw(tmp_path / "again", 12) == names
    assert [(tmp_path / "again" / name).read_bytes() for name in names] == contents


def test_a_comparison_says_how_much_faster_we_are_than_each(drawn):
    folder, names = drawn
    ways = {"ours": ours, "libjpeg_alone": libjpeg_alone, "pillow_sha256_imagehash": pillow_sha256_imagehash}
    figures = compare(ways, folder, names, rounds=2, threads=1)

    assert set(figures["ours_times_as_fast_as"]) == {"libjpeg_alone", "pillow_sha256_imagehash"}
    assert all(rate > 0 for rate in figures["pictures_per_second"].values())
    assert json.loads(json.dumps(figures)) == figures


def test_nobody_refuses_a_whole_picture_and_only_we_one_of_which_a_part_is_zero(drawn):
    folder, names = drawn
    table = damage(folder / "pictures", names[:4])

    for kind in ("none", "progressive", "bytes_after_its_end"):
        assert set(table[kind].values()) == {0.0}
    assert table["cut_at_a_half"] == {"pillow_verify": 0.0, "pillow_load": 1.0, "ours": 1.0}
    assert table["2_kb_zeroed"] == {"pillow_verify": 0.0, "pillow_load": 0.0, "ours": 1.0}


def test_later_runs_are_timed_with_new_pictures_and_without(drawn, monkeypatch):
    folder, names = drawn
    read: list[str] = []
    monkeypatch.setattr(bench, "open_pictures", lambda path: Counting(path, read))
    rates = second_run(folder, names)

    assert list(rates) == ["first", "new_ones_behind", "none_new", "fewer", "new_ones_among"]
    # Each once, and one again, for the run before had been without it, and so forgot it.
    assert sorted(read) == sorted([*names, names[1]])


class Counting:
    """A folder's pictures that notes what is read of them."""

    def __init__(self, path, read):
        self.path, self.noted = path, read

    def read(self, name):
        self.noted.append(name)
        return (self.path / name).read_bytes()

    def stamp(self, name):
        return name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
