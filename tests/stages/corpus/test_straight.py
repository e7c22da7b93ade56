import errno
import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus import straight
from stages.corpus.straight import StraightFile

PIECE = 4096


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(straight, "PIECE", PIECE)


@pytest.fixture
def written(monkeypatch):
    """Of each write to the disk, how many bytes it had and whether it went straight there."""
    found = []
    plain = os.write

    def write(file, content):
        found.append((len(content), bool(fcntl.fcntl(file, fcntl.F_GETFL) & straight.STRAIGHT)))
        return plain(file, content)

    monkeypatch.setattr(straight.os, "write", write)
    return found


def content_of(size):
    return bytes(number % 251 for number in range(size))


def write(path, *parts):
    with StraightFile(path) as file:
        for part in parts:
            assert file.write(part) == len(part)


@given(st.lists(st.integers(0, 3 * PIECE), max_size=8))
def test_whatever_parts_it_is_given_it_holds_them_all(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("file") / "store"
    parts = [content_of(size)[::-1] for size in sizes]
    write(path, *parts)
    assert path.read_bytes() == b"".join(parts)


def test_whole_pieces_go_straight_to_the_disk_and_the_rest_the_ordinary_way(tmp_path, written):
    path = tmp_path / "store"
    write(path, content_of(2 * PIECE + 10))
    assert path.read_bytes() == content_of(2 * PIECE + 10)
    if not any(went for _, went in written):
        pytest.skip("this file system keeps all files in memory")
    assert written == [(PIECE, True), (PIECE, True), (10, False)]


def test_where_no_file_may_be_opened_so_all_goes_the_ordinary_way(tmp_path, monkeypatch, written):
    plain = fcntl.fcntl

    def refusing(file, what, *given):
        if what == fcntl.F_SETFL and given[0] & straight.STRAIGHT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return plain(file, what, *given)

    monkeypatch.setattr(straight.fcntl, "fcntl", refusing)
    write(tmp_path / "store", content_of(2 * PIECE + 10))
    assert written == [(PIECE, False), (PIECE, False), (10, False)]
    assert (tmp_path / "store").read_bytes() == content_of(2 * PIECE + 10)


def test_a_disk_that_takes_a_part_and_then_no_part_of_a_block_gets_the_rest_the_ordinary_way(tmp_path, monkeypatch):
    plain = os.write
    parts = []

    def write_some(file, content):
        parts.append(len(content))
        if len(parts) == 2:
            raise OSError(errno.EINVAL, "Invalid argument")
        return plain(file, content[:512] if len(parts) == 1 else content)

    monkeypatch.setattr(straight.os, "write", write_some)
    monkeypatch.setattr(straight, "STRAIGHT", 0)  # the fake disk says what is straight, not the one below it
    write(tmp_path / "store", content_of(PIECE + 10))
    assert parts == [PIECE, PIECE - 512, PIECE - 512, 10]
    assert (tmp_path / "store").read_bytes() == content_of(PIECE + 10)


@pytest.mark.parametrize("wrong", [errno.ENOSPC, errno.EIO])
def test_what_is_wrong_with_the_disk_is_said(tmp_path, monkeypatch, wrong):
    def full(file, content):
        raise OSError(wrong, os.strerror(wrong))

    monkeypatch.setattr(straight.os, "write", full)
    with pytest.raises(OSError, match=os.strerror(wrong)), StraightFile(tmp_path / "store") as file:
        file.write(content_of(PIECE))
    assert file.closed


def test_a_folder_that_is_not_there_is_an_error_as_ever(tmp_path):
    with pytest.raises(FileNotFoundError):
        StraightFile(tmp_path / "none" / "store")
