import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats.draft import UnreadableError
from stages.formats.pictures import open_pictures
from stages.formats.tar import Tar


def packed(members, **change):
    """A tar of `members`: names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **change) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def written(folder, content):
    path = folder / "images.tar"
    path.write_bytes(content)
    return path


def refusal(path, name):
    with open_pictures(path) as pictures, pytest.raises(UnreadableError) as refused:
        pictures.read(name)
    return str(refused.value)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read_in_place(tmp_path, format):
    members = {"./a.png": b"one", "deep/" * 18 + "long.png": b"two", "b.png": bytes(9000)}
    path = written(tmp_path, packed(members, format=format))
    with open_pictures(path) as pictures:
        assert [pictures.read(name) for name in ("b.png", "a.png", "long.png")] == [bytes(9000), b"one", b"two"]
    assert [each.name for each in tmp_path.iterdir()] == ["images.tar"]


def test_a_path_that_begins_at_the_folder_itself_is_the_path_without_it(tmp_path):
    path = written(tmp_path, packed({"./x/same.png": b"one", "./y/same.png": b"two"}))
    with open_pictures(path) as pictures:
        assert [pictures.read(name) for name in ("y/same.png", "x/same.png")] == [b"two", b"one"]


def test_of_members_of_one_path_the_last_is_the_picture(tmp_path):
    path = written(tmp_path, packed({"./a.png": b"old", "a.png": b"new"}))
    with open_pictures(path) as pictures:
        assert pictures.read("a.png") == b"new"


def hostile(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("../../climbed.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = 7
            tar.addfile(info, io.BytesIO(b"climbed"))
        for name, kind in [
            ("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("device.png", tarfile.CHRTYPE),
            ("block.png", tarfile.BLKTYPE), ("pipe.png", tarfile.FIFOTYPE), ("folder.png", tarfile.DIRTYPE),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("climbed.png", "image_outside_source: ../../climbed.png"),
        ("../../climbed.png", "image_outside_source: ../../climbed.png"),
        ("absolute.png", "image_outside_source: /absolute.png"),
        ("/absolute.png", "image_outside_source: /absolute.png"),
        ("link.png", "image_outside_source: link.png is a link inside the tar"),
        ("hard.png", "image_outside_source: hard.png is a link inside the tar"),
        ("device.png", "image_not_readable: device.png is no regular file"),
        ("block.png", "image_not_readable: block.png is no regular file"),
        ("pipe.png", "image_not_readable: pipe.png is no regular file"),
        ("folder.png", "missing_image: folder.png"),
    ],
)
def test_members_that_are_no_plain_files_inside_are_refused(tmp_path, name, reason):
    assert refusal(hostile(tmp_path / "images.tar"), name) == reason


def test_a_sparse_member_whose_bytes_do_not_lie_in_the_tar_is_refused(tmp_path):
    content = bytearray(packed({"a.png": b"one"}, format=tarfile.GNU_FORMAT))
    content[156:157] = tarfile.GNUTYPE_SPARSE
    content[386:398] = content[398:410] = content[483:495] = b"00000000000\0"
    assert refusal(written(tmp_path, signed(content)), "a.png") == "image_not_readable: a.png is no regular file"


def signed(content):
    """The same tar with a right checksum in its first header."""
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


MEMBERS = {f"{number}.png": bytes([number]) * 700 for number in range(5)}
WHOLE = packed(MEMBERS)
END = 5 * (512 + 1024)
"""Where the members end and the zeros begin that say so."""


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=END + 511))
def test_wherever_a_tar_is_cut_it_is_refused_and_never_read_short(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("cut"), WHOLE[:cut])
    with pytest.raises(ValueError, match=r"images\.tar is no whole tar: .*; copy or download it again"):
        open_pictures(path)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=END - 1), st.integers(min_value=1, max_value=255))
def test_a_flipped_byte_is_a_clear_error_or_stays_in_its_member(tmp_path_factory, place, flip):
    content = bytearray(WHOLE)
    content[place] ^= flip
    path = written(tmp_path_factory.mktemp("flipped"), content)
    try:
        with open_pictures(path) as pictures:
            broken = [name for name, content in MEMBERS.items() if pictures.read(name) != content]
    except ValueError as error:
        broken = [str(error)]
    assert len(broken) <= 1
    assert not broken or broken[0] in MEMBERS or "images.tar is no whole tar" in broken[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no whole tar: empty file; copy or download it again"),
        (b"PK\x03\x04" * 500, "is no whole tar: .*; copy or download it again"),
        (gzip.compress(WHOLE), "is compressed, and cannot be read in place: gunzip it"),
        (WHOLE + WHOLE, rf"goes on behind its end, at byte {END}: several tars in one file\?"),
    ],
)
def test_what_is_no_single_whole_tar_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"images\.tar .*{message}"):
        open_pictures(written(tmp_path, content))


@pytest.mark.parametrize("name", ["images.tar.gz", "images.tgz"])
def test_a_compressed_tar_is_known_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(WHOLE))
    with pytest.raises(ValueError, match="it is compressed, and cannot be read in place"):
        open_pictures(tmp_path / name)


def test_a_member_of_negative_size_does_not_stop_the_run(tmp_path):
    content = bytearray(packed({"a.png": b"one", "b.png": b"two"}, format=tarfile.GNU_FORMAT))
    content[124:136] = b"\xff" * 10 + (0x10000 - 1024).to_bytes(2, "big")
    with pytest.raises(ValueError, match=r"images\.tar is no whole tar: a member of negative size at byte 0"):
        open_pictures(written(tmp_path, signed(content)))


def test_headers_without_end_are_one_clear_error(tmp_path):
    header = packed({"a": b""}, format=tarfile.GNU_FORMAT)[:512]
    content = bytearray(header)
    content[156:157] = tarfile.XHDTYPE
    with pytest.raises(ValueError, match=r"images\.tar is no whole tar"):
        open_pictures(written(tmp_path, signed(content) * 5000))


def test_names_that_are_no_utf_8_are_names_still(tmp_path):
    path = written(tmp_path, packed({"\udcff.png": b"one"}, format=tarfile.GNU_FORMAT, errors="surrogateescape"))
    with open_pictures(path) as pictures:
        assert pictures.read("\udcff.png") == b"one"


def test_a_tar_that_shrinks_while_it_is_read_loses_what_is_no_longer_there(tmp_path):
    path = written(tmp_path, WHOLE)
    with open_pictures(path) as pictures:
        path.write_bytes(WHOLE[: 512 + 100])
        with pytest.raises(UnreadableError, match=r"image_not_readable: 0\.png: the tar ends within it"):
            pictures.read("0.png")


def test_the_file_is_closed_when_the_tar_is_refused_and_when_it_is_done_with(tmp_path):
    # Warnings are errors here, and an open file that nobody holds is a warning.
    with pytest.raises(ValueError, match="no whole tar"):
        Tar(written(tmp_path, b"broken"))
    with Tar(written(tmp_path, WHOLE)) as tar:
        assert [name for name, _ in tar.listed] == list(MEMBERS)
    assert tar.file.closed
