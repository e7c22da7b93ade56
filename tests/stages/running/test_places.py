"""Inputs and outputs by URL: mirrored when they changed, sent whole, and never out of their folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from stages.running.places import MANIFEST, fetch, is_url, send

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store():
    """A store in memory, emptied before and after."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_url_is_told_from_a_path():
    assert is_url("s3://bucket/folder")
    assert not is_url("data/ingest")


def test_a_folder_is_mirrored_and_a_file_too(store, tmp_path):
    store.pipe("/b/in/rows.json", b"[]")
    store.pipe("/b/in/images/a.png", b"a")

    assert files(fetch("memory://b/in", tmp_path)) == {"rows.json": "[]", "images/a.png": "a"}
    alone = fetch("memory://b/in/rows.json", tmp_path)
    assert (alone.name, alone.read_text()) == ("rows.json", "[]")


def test_only_what_changed_is_fetched_again_and_what_is_gone_goes(store, tmp_path):
    for name in ("a", "b", "c"):
        store.pipe(f"/b/in/{name}", name.encode())
    folder = fetch("memory://b/in", tmp_path)
    (folder / "a").write_text("marked")  # seen to be left alone
    store.pipe("/b/in/b", b"new")
    store.rm("/b/in/c")

    assert files(fetch("memory://b/in", tmp_path)) == {"a": "marked", "b": "new"}


def test_a_fetch_that_was_cut_off_is_gone_on_with(store, tmp_path, monkeypatch):
    for name in ("a", "b"):
        store.pipe(f"/b/in/{name}", name.encode())
    whole = type(store).get_file

    def cut(self, there, here, **options):
        if there.endswith("/b"):
            Path(here).write_text("half")
            raise KeyboardInterrupt
        whole(self, there, here, **options)

    monkeypatch.setattr(type(store), "get_file", cut)
    with pytest.raises(KeyboardInterrupt):
        fetch("memory://b/in", tmp_path)
    monkeypatch.undo()

    folder = fetch("memory://b/in", tmp_path)
    assert files(folder) == {"a": "a", "b": "b"}


def test_what_is_sent_comes_back_and_replaces_what_was_there(store, tmp_path):
    (tmp_path / "made" / "shards").mkdir(parents=True)
    (tmp_path / "made" / "shards" / "0").write_text("zero")
    (tmp_path / "made" / "gone").write_text("gone")
    send(tmp_path / "made", "memory://b/out")
    (tmp_path / "made" / "gone").unlink()
    (tmp_path / "made" / "shards" / "1").write_text("one")
    send(tmp_path / "made", "memory://b/out")

    back = files(fetch("memory://b/out", tmp_path / "work"))
    assert set(json.loads(back.pop(MANIFEST))) == {"shards/0", "shards/1"}
    assert back == {"shards/0": "zero", "shards/1": "one"}


def test_an_output_is_there_once_its_manifest_is_and_files_that_are_there_are_not_sent_again(store, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    for name in ("a", "b"):
        (tmp_path / "made" / name).write_text(name)
    send(tmp_path / "made", "memory://b/out")
    (tmp_path / "made" / "b").write_text("new")
    sent = []

    def cut(self, here, there, **options):
        sent.append(there)
        raise OSError("the line is down")

    monkeypatch.setattr(type(store), "put_file", cut)
    with pytest.raises(ValueError, match=r"memory://b/out cannot be written to: the line is down"):
        send(tmp_path / "made", "memory://b/out")

    assert sent == ["/b/out/b"]
    with pytest.raises(ValueError, match="was not sent to its end"):
        fetch("memory://b/out", tmp_path / "work")
    monkeypatch.undo()
    send(tmp_path / "made", "memory://b/out")
    assert files(fetch("memory://b/out", tmp_path / "work"))["b"] == "new"


def test_what_no_stage_sent_is_not_replaced(store, tmp_path):
    (tmp_path / "made").mkdir()
    store.pipe("/b/photos.zip", b"precious")

    with pytest.raises(ValueError, match=r"memory://b holds what no stage sent there \(photos\.zip\)"):
        send(tmp_path / "made", "memory://b")
    assert store.cat("/b/photos.zip") == b"precious"


def test_an_output_that_is_not_what_its_manifest_says_is_refused(store, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("a")
    send(tmp_path / "made", "memory://b/out")
    store.pipe("/b/out/a", b"b")

    with pytest.raises(ValueError, match=r"/b/out is not what its manifest says \(1 files, first a\)"):
        fetch("memory://b/out", tmp_path / "work")


def test_nothing_there_and_stores_nobody_knows_are_told(store, tmp_path):
    with pytest.raises(ValueError, match="there is nothing at memory://b/none"):
        fetch("memory://b/none", tmp_path)
    with pytest.raises(ValueError, match="nosuch://b/in cannot be opened"):
        fetch("nosuch://b/in", tmp_path)
    with pytest.raises(ValueError, match="within a place"):
        fetch("zip://a::memory://b/in.zip", tmp_path)


def test_a_name_that_climbs_out_is_refused(store, tmp_path):
    store.store["/b/in/../../secret"] = store.open("/b/in/x", "wb")

    with pytest.raises(ValueError, match="leads out of its folder"):
        fetch("memory://b/in", tmp_path)


STAGE = '''
"""Repeats what it reads."""
from pathlib import Path
from stages.running import command
from stages.running.command import Out
from stages.running.section import Section

class Params(Section):
    times: int
    """How often."""

def repeat(params: Params, source: Path, folder: Out) -> None:
    """Repeat."""
    folder.mkdir()
    (folder / "copied.txt").write_text((source / "words.txt").read_text() * params.times)

if __name__ == "__main__":
    command.run(repeat)
'''


@pytest.mark.slow
def test_a_stage_reads_from_s3_and_writes_to_it(tmp_path):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    pytest.importorskip("s3fs")
    server.start()
    try:
        _, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "no", "AWS_SECRET_ACCESS_KEY": "no", "AWS_DEFAULT_REGION": "eu-west-1"}
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
        s3 = fsspec.filesystem(
            "s3", key="no", secret="no", client_kwargs={"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-west-1"}
        )
        s3.mkdir("bucket")
        s3.pipe("bucket/in/words.txt", b"word\n")
        (tmp_path / "repeat.py").write_text(STAGE)
        compute = "compute: {engine: local, address: null, processes: 1}\n"
        (tmp_path / "params.yaml").write_text(f"{compute}repeat: {{times: 2}}\n")
        words = [sys.executable, "repeat.py", "s3://bucket/in", "s3://bucket/out"]
        for text in ("word\n", "other\n"):
            s3.pipe("bucket/in/words.txt", text.encode())
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

            assert done.returncode == 0, done.stderr
            assert s3.cat("bucket/out/copied.txt") == 2 * text.encode()
        assert json.loads(s3.cat(f"bucket/out/{MANIFEST}")).keys() == {"copied.txt"}
    finally:
        server.stop()
