"""The bench of what DVC tracks draws pictures as small and as many a shard as it says, and believes no silent status."""

import io
import json
import subprocess

import pytest
from PIL import Image

from bench import tracked_files


def test_a_picture_is_of_its_size_and_its_own():
    small = tracked_files.smallest()
    first, again, other = (tracked_files.picture(small, number, 976) for number in (1, 1, 2))

    assert len(first) == len(other) == 976
    assert first == again != other
    with Image.open(io.BytesIO(first)) as shown:
        shown.load()
        assert shown.size == (16, 16)


def test_a_small_shard_holds_as_many_small_pictures_as_a_real_one_real_ones():
    here = tracked_files.SHARD_MIB * 2**20 // tracked_files.size_of(tracked_files.SHARD_MIB, 1024)

    assert here == pytest.approx(1024 * 2**20 / tracked_files.REAL_BYTES, rel=0.001)


@pytest.mark.parametrize(
    ("said", "changed"), [("Data and pipelines are up to date.\n", True), ("big:\n\tchanged outs:\n", False)]
)
def test_a_status_that_says_otherwise_than_what_was_done_fails_the_bench(said, changed, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, 0, said))

    with pytest.raises(AssertionError, match="dvc status should say"):
        tracked_files.status(tmp_path, changed)


@pytest.mark.slow
def test_few_pictures_are_tracked_timed_and_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tracked_files.py", "--pictures", "300", "--folder", str(tmp_path / "run")])
    monkeypatch.setattr(tracked_files.machine, "RESULTS", tmp_path)

    tracked_files.main()

    said = capsys.readouterr().out
    figures = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert figures["files tracked"] == {"images": 1, "examples": 1, "others": 3, "all": 5}
    assert not (tmp_path / "tracked_files.json").exists()
    assert not (tmp_path / "run").exists()
