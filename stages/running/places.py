"""Inputs and outputs on other stores than this disk, named by URL (`s3://bucket/folder`): brought here, sent there.

Stages read and write files. Where a word of a command is a URL, what it names is mirrored below `.work` before the stage runs,
only what changed since the last time; what the stage wrote is sent when it ended well. An output there is whole once
its manifest lies in it: that is sent last, and says so first when the output is replaced.

Whether a stage is stale because of what lies at a URL is for DVC to say, as of any path that dvc.yaml lists among `deps`: it
lists the store too, and compares what tells each file's version.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from stages.running.leash import alone
from stages.running.progress import progress
from stages.running.remote import has_bucket, make_room, opened, shown, told

MANIFEST = "tandem-manifest.json"
"""Beside what a stage wrote: the sha256 of every file, by its path."""
UNFINISHED = ""
"""A path in the manifest of an output that is being sent; no file has it."""
STATE = ".state.json"
"""Beside a mirror: of every file, what told its version there."""
READERS = ".readers.lock"
"""Beside a mirror: held by those who read it, and by who changes it against them."""
VERSION = ("etag", "ETag", "md5", "contentHash", "mtime", "LastModified", "updated", "modify", "created")
"""Where the stores that fsspec knows say which version of a file they hold; the first that one has is taken."""


def is_url(word: str) -> bool:
    """Whether `word` names a place on another store, and no path of this disk."""
    return "://" in word


def look_for(url: str) -> None:
    """Raise `ValueError` unless something lies at `url` that can be listed; nothing is fetched."""
    store, root = opened(url)
    with told(url, "read"):
        try:
            store.info(root)
            return
        except FileNotFoundError:
            pass
    raise _nothing_at(url)


@contextlib.contextmanager
def fetched(urls: Iterable[str], work: Path) -> Iterator[dict[str, Path]]:
    """What lies at each of `urls`, a file or a folder, as a path of this disk below `work`.

    What did not change since the last time is not fetched again. While this lasts, nothing of it changes on this disk: another
    stage that finds a newer version there waits to fetch it until all who read this one have ended.

    Raises:
        ValueError: there is nothing at a URL, or it cannot be read, or is a stage's output that was not sent to its end.
    """
    with contextlib.ExitStack() as reading:
        # In one order for all, so that no two wait for each other.
        yield {url: reading.enter_context(_fetched(url, work)) for url in sorted(set(urls))}


@contextlib.contextmanager
def _fetched(url: str, work: Path) -> Iterator[Path]:
    mirror = work / "places" / hashlib.sha256(url.encode()).hexdigest()[:16]
    files = mirror / "files"
    files.mkdir(parents=True, exist_ok=True)
    # Read and written: where locks go over a network, a shared one wants the one and an exclusive one the other.
    with (mirror / READERS).open("a+") as readers:
        with alone(f"place-{mirror.name}", work):
            store, root = opened(url)
            there = _listed(store, root, url)
            if not there:
                raise _nothing_at(url)
            single = PurePosixPath(root).name if set(there) == {""} else ""
            if single:
                there = {single: there[""]}
            _refresh(mirror, there, readers, lambda path, to: _bring(store, root if single else f"{root}/{path}", url, to))
            _hold(url, files)
            # Nobody changes the mirror between the two locks: that takes the one held here.
            fcntl.flock(readers, fcntl.LOCK_SH)
        yield files / single


def _nothing_at(url: str) -> ValueError:
    return ValueError(
        f"there is nothing at {shown(url)}; correct it (params.yaml, or the command's word), or put there what is to be read"
    )


def _bring(store: Any, there: str, url: str, to: Path) -> None:
    with told(f"{url} ({there})", "read"):
        store.get_file(there, str(to))


def _refresh(mirror: Path, there: Mapping[str, str], readers: IO[str], bring: Callable[[str, Path], None]) -> None:
    """Make the mirror's files those of `there`, of each path its version; `bring` fetches one."""
    files = mirror / "files"
    had = _state(mirror)
    gone = had.keys() - there.keys()
    stale = [path for path in sorted(there) if had.get(path) != there[path] or not (files / path).is_file()]
    if not gone and not stale:
        return
    _wait_for(readers)
    # Noted before anything changes, so that what is half done when this is killed is done again.
    had |= dict.fromkeys([*gone, *stale], "")
    _note(mirror, had)
    for path in gone:
        _remove(files / path, files)
        del had[path]
    try:
        for path in progress(stale, "fetch", "file"):
            target = files / path
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            bring(path, partial)
            partial.replace(target)
            had[path] = there[path]
    finally:
        _note(mirror, had)


def _state(mirror: Path) -> dict[str, str]:
    """What is known of the mirror's files, of each path its version."""
    try:
        return json.loads((mirror / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Files of which nothing is known may be gone on the store, and would be read as if they were there.
        shutil.rmtree(mirror / "files")
        (mirror / "files").mkdir()
        return {}


def _note(mirror: Path, had: Mapping[str, str]) -> None:
    partial = mirror / f"{STATE}.partial"
    partial.write_text(json.dumps(had, sort_keys=True), encoding="utf-8")
    partial.replace(mirror / STATE)


def _wait_for(readers: IO[str]) -> None:
    """Hold the readers' lock alone."""
    try:
        fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = "what it reads changed on its store, and another stage still reads what it was; waiting for that to end"
        print(f"place: {words}", file=sys.stderr, flush=True)
        fcntl.flock(readers, fcntl.LOCK_EX)


def _remove(path: Path, root: Path) -> None:
    """Remove a file, and the folders below `root` that are empty without it: one of them may be a file's name now."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            return
        folder.rmdir()


def _hold(url: str, files: Path) -> None:
    """Refuse what a stage sent if it is not what arrived here; of what no stage sent nothing is known."""
    if not (files / MANIFEST).is_file():
        return
    manifest: dict[str, str] = json.loads((files / MANIFEST).read_text(encoding="utf-8"))
    if UNFINISHED in manifest:
        raise ValueError(f"{shown(url)} was not sent to its end; run the stage that writes it again")
    wrong = [path for path, digest in manifest.items() if not (files / path).is_file() or _sha256(files / path) != digest]
    if wrong:
        raise ValueError(f"{shown(url)} is not what its manifest says ({len(wrong)} files, first {min(wrong)}); write it again")


def expect(url: str) -> None:
    """Raise `ValueError` if what a stage writes could not be sent to `url`, as far as can be seen before it is made."""
    store, root = opened(url)
    _replaceable(store, root, url)
    with told(url, "written to"):
        has_bucket(store, root)


def _replaceable(store: Any, root: str, url: str) -> dict[str, str]:
    """What lies at `url`, which a stage sent or which is nothing; or a file, in whose place a file may be put."""
    there = _listed(store, root, url)
    if there and MANIFEST not in there and set(there) != {""}:
        raise ValueError(
            f"{shown(url)} holds what no stage sent there ({min(there)}), and would be replaced; name another place"
        )
    return there


def send(made: Path, url: str) -> None:
    """Put the file or folder `made` at `url`, in place of what is there; files that are there already are not sent again.

    Raises:
        ValueError: the place cannot be written to, or holds what no stage sent there.
    """
    store, root = opened(url)
    if made.is_file():
        with told(url, "written to"):
            make_room(store, root)
            store.put_file(str(made), root)
        return
    paths = {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}
    manifest = {name: _sha256(path) for name, path in paths.items()}
    there = _replaceable(store, root, url)
    if "" in there:
        raise ValueError(f"{shown(url)} is a file, and a folder would take its place; name another place")
    with told(url, "written to"):
        before = _manifest(store, root)
        # Of what is about to be written over nothing is said: a kill on the way would leave it under a digest that it has not.
        stays = {name: digest for name, digest in before.items() if name in there and manifest.get(name) == digest}
        make_room(store, f"{root}/{MANIFEST}")
        store.pipe_file(f"{root}/{MANIFEST}", json.dumps({UNFINISHED: ""} | stays).encode())
        for name in progress(manifest, "send", "file"):
            if name not in stays:
                make_room(store, f"{root}/{name}")
                store.put_file(str(paths[name]), f"{root}/{name}")
        for name in there.keys() - manifest.keys() - {MANIFEST}:
            store.rm_file(f"{root}/{name}")
        store.pipe_file(f"{root}/{MANIFEST}", json.dumps(manifest, sort_keys=True, indent=1).encode())


def _manifest(store: Any, root: str) -> dict[str, str]:
    try:
        return json.loads(store.cat_file(f"{root}/{MANIFEST}"))
    except (FileNotFoundError, ValueError):
        return {}


def _listed(store: Any, root: str, url: str) -> dict[str, str]:
    """Every file at `root` by its path below it, with what tells its version; of a file itself, the path is empty.

    Raises:
        ValueError: it cannot be listed, a name leads out of the folder, or is that of a file and of a folder.
    """
    with told(url, "read"):
        try:
            found = store.find(root, detail=True)
        except FileNotFoundError:
            return {}
    listed = {}
    for full, about in found.items():
        path = full[len(root) :].lstrip("/")
        if ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path:
            raise ValueError(f"{shown(url)} cannot be read: the name {full!r} leads out of its folder")
        if full.endswith("/"):
            continue  # a mark of a folder
        version = next((str(about[field]) for field in VERSION if about.get(field) is not None), "")
        # Where nothing tells the version, the file is another one each time.
        listed[path] = f"{about.get('size')} {version or time.time_ns()}"
    folders = {
        "" if folder == PurePosixPath() else folder.as_posix() for path in listed for folder in PurePosixPath(path).parents
    }
    if both := folders & listed.keys():
        what = f"{root}/{min(both)}".rstrip("/")
        raise ValueError(f"{shown(url)} cannot be read: {what} is a file and a folder there, which no disk can have")
    return listed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
