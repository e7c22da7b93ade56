"""Files that a kill of dvc cut off are put aside, and no others."""

import fcntl

import pytest

from stages.running.mend import put_torn_aside

LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: b\n    outs:\n    - path: c\n      size: 1234\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    for name in ("lock", "rwlock.lock"):
        (tmp_path / ".dvc/tmp" / name).touch()
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / ".dvc/tmp/rwlock").write_text("{}")
    return tmp_path


def test_whole_files_stay(root):
    assert put_torn_aside(root, root / "work") == []
    assert not (root / "work").exists()


def test_a_folder_without_either_is_no_trouble(tmp_path):
    assert put_torn_aside(tmp_path, tmp_path / "work") == []


@pytest.mark.parametrize("text", ["", LOCK[:-3], LOCK[:21], "schema: '2.0'\nstages: {\n", "- a\n"])
def test_a_torn_lock_is_put_aside(root, text):
    (root / "dvc.lock").write_text(text)

    assert put_torn_aside(root, root / "work") == [root / "dvc.lock"]
    assert (root / "work/torn-dvc.lock").read_text() == text


@pytest.mark.parametrize("text", ["", '{"read": {"a', "[]"])
def test_a_torn_rwlock_is_put_aside(root, text):
    (root / ".dvc/tmp/rwlock").write_text(text)

    assert put_torn_aside(root, root / "work") == [root / ".dvc/tmp/rwlock"]


def test_what_a_living_dvc_is_writing_is_left_alone(root):
    (root / "dvc.lock").write_text("")
    with (root / ".dvc/tmp/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert put_torn_aside(root, root / "work") == []
