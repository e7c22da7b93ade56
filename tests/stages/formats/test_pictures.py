import io
import os
import re
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats import pictures as module
from stages.formats.draft import UnreadableError
from stages.formats.pictures import open_pictures

FILES = {"a.png": b"one", "deep/b.png": b"two", "x/same.png": b"three", "y/same.png": b"four", "#U00fcber.png": b"five"}


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def parquet_of(path: Path, files: dict[str, bytes], rows_a_group: int = 2) -> Path:
    rows = [{"bytes": content, "path": name} for name, content in files.items()]
    pq.write_table(pa.table({"label": list(files), "image": rows}), path, row_group_size=rows_a_group)
    return path


def split(folder: Path, pack) -> str:
    """The pictures in three files of one kind."""
    names = sorted(FILES)
    for number in range(3):
        pack(folder / f"part-{number}.{pack.__name__[:3]}", {name: FILES[name] for name in names[number::3]})
    return f"part-*.{pack.__name__[:3]}"


@pytest.fixture(params=["folder", "zip", "tar", "parquet", "tars", "zips", "several kinds"])
def store(request, tmp_path):
    """The same five pictures in each kind of store."""
    if request.param == "parquet":
        return parquet_of(tmp_path / "images.parquet", FILES)
    if request.param in ("tars", "zips"):
        return tmp_path / split(tmp_path, tar_of if request.param == "tars" else zip_of)
    if request.param == "several kinds":
        (tmp_path / "images").mkdir()
        first, *names = sorted(FILES)
        tar_of(tmp_path / "images" / "a.tar", {first: FILES[first]})
        zip_of(tmp_path / "images" / "b.zip", {name: FILES[name] for name in names[:2]})
        parquet_of(tmp_path / "images" / "c.parquet", {name: FILES[name] for name in names[2:]})
        return tmp_path / "images" / "*.*"
    if request.param == "folder":
        for name, content in FILES.items():
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(content)
        (tmp_path / "secret.txt").write_bytes(b"secret")
        return tmp_path / "images"
    return tar_of(tmp_path / "images.tar", FILES) if request.param == "tar" else zip_of(tmp_path / "images.zip", FILES)


def refusal(store, name):
    with open_pictures(store) as pictures, pytest.raises(UnreadableError) as refused:
        pictures.read(name)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"one"),
        ("./a.png", b"one"),
        ("deep/../a.png", b"one"),
        ("deep/b.png", b"two"),
        ("x/same.png", b"three"),
        ("./task_imgs/a.png", b"one"),
        ("coco/train2017/b.png", b"two"),
        ("über.png", b"five"),
    ],
)
def test_a_picture_is_found_by_its_path_or_else_by_a_file_name_that_only_it_has(store, name, content):
    with open_pictures(store) as pictures:
        assert pictures.read(name) == content


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("c.png", "missing_image: c.png"),
        ("deep", "missing_image: deep"),
        ("z/same.png", "ambiguous_image: z/same.png could be x/same.png or y/same.png"),
        ("../secret.txt", "image_outside_source: ../secret.txt"),
        ("../../etc/passwd", "image_outside_source: ../../etc/passwd"),
        ("deep/../../secret.txt", "image_outside_source: deep/../../secret.txt"),
        ("..\\secret.txt", "image_outside_source: ..\\secret.txt"),
        ("/etc/passwd", "image_outside_source: /etc/passwd"),
        ("", "missing_image: '' is no file name"),
        ("a\0.png", "missing_image: 'a\\x00.png' is no file name"),
        ("http://example.org/c.png", "missing_image: http://example.org/c.png"),
        ("n" * 5000, f"missing_image: {'n' * 5000}"),
    ],
)
def test_a_name_that_leads_nowhere_or_outside_is_refused_with_the_reason(store, name, reason):
    assert re.sub(r"[-\w]+\.(tar|zip|parquet): ", "", refusal(store, name)) == reason


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "/", "deep", "\\", "a.png"]), max_size=9).map("/".join))
def test_no_name_however_strange_reads_a_byte_from_outside(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("root")
    (root / "outside.png").write_bytes(b"outside")
    (root / "images" / "deep").mkdir(parents=True)
    (root / "images" / "a.png").write_bytes(b"inside")
    with open_pictures(root / "images") as pictures:
        try:
            got = pictures.read(name)
        except UnreadableError as error:
            got = str(error).split(":")[0].encode()
    assert got in {b"inside", b"missing_image", b"image_outside_source"}


def test_a_link_is_followed_only_while_it_stays_inside(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (root / "a.png").write_bytes(b"one")
    (root / "inside.png").symlink_to("a.png")
    (root / "outside.png").symlink_to("../secret.txt")
    (root / "folder").symlink_to(tmp_path)
    (root / "circle.png").symlink_to("circle.png")
    (root / "nowhere.png").symlink_to("gone.png")
    with open_pictures(root) as pictures:
        assert pictures.read("inside.png") == b"one"
    assert refusal(root, "outside.png") == "image_outside_source: outside.png is a link that leads out of the folder"
    assert refusal(root, "folder/secret.txt").startswith("image_outside_source: folder/secret.txt")
    assert refusal(root, "circle.png").startswith("image_not_readable: circle.png")
    assert refusal(root, "nowhere.png") == "image_not_readable: nowhere.png: No such file or directory"


def test_a_folder_that_is_itself_a_link_is_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"one")
    (tmp_path / "images").symlink_to("real")
    with open_pictures(tmp_path / "images") as pictures:
        assert pictures.read("a.png") == b"one"


def test_a_pipe_among_the_pictures_does_not_stop_the_run(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert refusal(tmp_path, "a.png") == "image_not_readable: a.png is no regular file"


def test_enormous_files_are_no_pictures(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 4)
    assert refusal(store, "x/same.png") == "image_too_large: x/same.png has more than 0 MiB"


@pytest.mark.parametrize("pack", [zip_of, tar_of, parquet_of, None])
def test_empty_files_are_no_pictures(tmp_path, pack):
    path = tmp_path / f"images.{pack.__name__.removesuffix('_of')}" if pack else tmp_path
    if pack:
        pack(path, {"a.png": b""})
    else:
        (tmp_path / "a.png").touch()
    assert refusal(path, "a.png") == "empty_image: a.png"


def climbing(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../../outside.png", b"climbed")
        packed.writestr("/absolute.png", b"climbed")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, b"/etc/passwd")
    return path


def test_members_that_climb_out_of_a_zip_are_refused_by_whatever_name(tmp_path):
    path = climbing(tmp_path / "images.zip")
    for name in ("outside.png", "../../outside.png", "absolute.png", "/absolute.png", "link.png"):
        assert refusal(path, name).startswith("image_outside_source: "), name


def test_a_zip_with_a_broken_member_loses_that_member_alone(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.png", b"one" * 100)
        packed.writestr("b.png", b"two")
    path.write_bytes(path.read_bytes().replace(b"oneone", b"onetwo", 1))
    assert refusal(path, "a.png") == "image_not_readable: a.png: Bad CRC-32 for file 'a.png'"
    with open_pictures(path) as pictures:
        assert pictures.read("b.png") == b"two"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_broken_in_its_compressed_bytes_is_lost_alone(tmp_path, method):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("a.png", bytes(range(256)) * 50)
        packed.writestr("b.png", b"two")
        start, size = len("a.png") + 30, packed.getinfo("a.png").compress_size
    content = bytearray(path.read_bytes())
    content[start + 9 : start + size] = b"\xff" * (size - 9)  # LZMA: after the header with the properties
    path.write_bytes(content)
    assert refusal(path, "a.png").startswith("image_not_readable: a.png: ")
    with open_pictures(path) as pictures:
        assert pictures.read("b.png") == b"two"


def edited(path: Path, at: dict[bytes, int], value: int) -> Path:
    """A zip of two pictures, with two bytes of the headers of the first one written over; `at`: a header's mark, how far in."""
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a.png", "b.png"):
            file.writestr(name, name.encode())
    content = bytearray(path.read_bytes())
    for mark, further in at.items():
        place = content.index(mark) + further
        content[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    return path


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [({LOCAL: 6, CENTRAL: 8}, 1, "encrypted"), ({LOCAL: 8, CENTRAL: 10}, 99, "compression method is not supported")],
)
def test_an_encrypted_member_and_one_in_an_unknown_compression_are_lost_alone(tmp_path, at, value, why):
    path = edited(tmp_path / "images.zip", at, value)
    assert refusal(path, "a.png").startswith("image_not_readable: a.png: ")
    assert why in refusal(path, "a.png")
    with open_pictures(path) as pictures:
        assert pictures.read("b.png") == b"b.png"


def test_a_zip_that_wants_a_newer_reader_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"images\.zip wants more of a reader than Python's has: zip file version 9\.9"):
        open_pictures(edited(tmp_path / "images.zip", {CENTRAL: 6}, 99))


def test_a_file_that_is_no_zip_and_a_missing_one_are_refused_by_name(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"images\.zip is no whole zip"):
        open_pictures(tmp_path / "images.zip")
    with pytest.raises(ValueError, match="there is no folder, zip or tar"):
        open_pictures(tmp_path / "nothing")


def test_a_source_of_text_alone_has_no_pictures():
    assert refusal(None, "a.png").startswith("missing_image: a.png")


def test_a_path_that_two_archives_have_is_ambiguous(tmp_path):
    tar_of(tmp_path / "a.tar", {"x/same.png": b"one", "only.png": b"here"})
    tar_of(tmp_path / "b.tar", {"x/same.png": b"two"})
    reason = "ambiguous_image: x/same.png could be a.tar: x/same.png or b.tar: x/same.png"
    assert refusal(tmp_path / "*.tar", "x/same.png") == reason
    with open_pictures(tmp_path / "*.tar") as pictures:
        assert pictures.read("only.png") == b"here"


def test_of_members_of_one_path_in_one_archive_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for content in (b"old", b"new"):
            info = tarfile.TarInfo("a.png")
            info.size = 3
            packed.addfile(info, io.BytesIO(content))
    with open_pictures(tmp_path / "a.tar") as pictures:
        assert pictures.read("a.png") == pictures.read("elsewhere/a.png") == b"new"


def test_a_pattern_that_fits_nothing_or_leads_out_is_refused_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"no file fits .*\*\.tar; it comes from this source's `images`"):
        open_pictures(tmp_path / "images" / "*.tar")
    tar_of(tmp_path / "outside.tar", FILES)
    (tmp_path / "images" / "a.tar").symlink_to("../outside.tar")
    with pytest.raises(ValueError, match=r"a\.tar is a link that leads out of .*images"):
        open_pictures(tmp_path / "images" / "*.tar")


def test_hidden_files_are_none_that_a_pattern_fits(tmp_path):
    tar_of(tmp_path / "a.tar", FILES)
    (tmp_path / "._a.tar").write_bytes(b"what another system leaves beside its files")
    with open_pictures(tmp_path / "*.tar") as pictures:
        assert pictures.read("a.png") == b"one"


@pytest.mark.parametrize(
    "table",
    [
        {"image": [{"bytes": b"one", "path": "a.png"}, None, {"bytes": None, "path": "b.png"}]},
        {"jpg": [b"one", None, None], "file_name": ["a.png", None, "b.png"], "other": [1, 2, 3]},
    ],
)
def test_a_parquet_files_pictures_have_the_names_that_stand_beside_them(tmp_path, table):
    pq.write_table(pa.table(table), tmp_path / "images.parquet")
    with open_pictures(tmp_path / "images.parquet") as pictures:
        assert pictures.read("a.png") == b"one"
    assert refusal(tmp_path / "images.parquet", "b.png") == "missing_image: b.png has no bytes in its Parquet file"


def test_a_parquet_file_without_pictures_and_a_broken_one_are_refused_by_name(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "images.parquet")
    with pytest.raises(ValueError, match=r"images\.parquet has columns text; wanted one of pictures"):
        open_pictures(tmp_path / "images.parquet")
    (tmp_path / "images.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"images\.parquet is no whole Parquet file"):
        open_pictures(tmp_path / "images.parquet")


@pytest.mark.parametrize("pack", [zip_of, tar_of, parquet_of])
def test_several_threads_may_read_in_any_order(tmp_path, pack):
    files = {f"{number}.png": f"{number}".encode() * (number + 1) for number in range(500)}
    more = {"rows_a_group": 300} if pack is parquet_of else {}
    path = pack(tmp_path / f"images.{pack.__name__.removesuffix('_of')}", files, **more)
    with open_pictures(path) as pictures, ThreadPoolExecutor(8) as pool:
        names = [f"{number * 7 % 500}.png" for number in range(500)]
        assert list(pool.map(pictures.read, names)) == [files[name] for name in names]


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled the moment they are written."""
    monkeypatch.setattr("stages.formats.files.SETTLED", -(10**12))


def stamps(path, names=("a.png", "gone.png")):
    with open_pictures(path) as pictures:
        return [pictures.stamp(name) for name in names]


@pytest.mark.parametrize("pack", [zip_of, tar_of, parquet_of])
def test_what_an_archive_changes_into_has_another_stamp(tmp_path, settled, pack):
    path = tmp_path / f"images.{pack.__name__.removesuffix('_of')}"
    pack(path, FILES)
    first = stamps(path)
    assert first == stamps(path)
    assert first[0]
    assert first[1] is None
    pack(path, FILES | {"a.png": b"eno"})
    assert stamps(path)[0] not in (None, first[0])


def test_a_file_that_changed_and_was_set_back_to_its_old_time_has_another_stamp(tmp_path, settled):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = stamps(tmp_path)
    assert first == stamps(tmp_path)
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamps(tmp_path)[0] not in (None, first[0])


def test_what_was_written_just_now_has_no_stamp_because_it_may_change_within_the_tick(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.formats.files.SETTLED", 10**12)
    (tmp_path / "a.png").write_bytes(b"one")
    zip_of(tmp_path / "b.zip", FILES)
    assert stamps(tmp_path) == stamps(tmp_path / "b.zip") == stamps(None) == [None, None]


def test_two_names_of_one_stamp_are_of_one_picture(store, settled):
    with open_pictures(store) as pictures:
        assert pictures.stamp("a.png") == pictures.stamp("./task_imgs/a.png")
        assert pictures.stamp("a.png") != pictures.stamp("deep/b.png")
        assert pictures.stamp("z/same.png") is None
