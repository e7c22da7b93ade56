"""Inputs and outputs on other stores than this disk, named by URL (`s3://bucket/folder`): brought here, sent there.

Stages read and write files. Where a word of a command is a URL, what it names is mirrored below `.work` before the stage runs,
only what changed since the last time; what the stage wrote is sent when it ended well. An output there is whole once
its manifest lies in it: that is sent last, and says so first when the output is replaced.
"""

import hashlib
import json
import time
from pathlib import Path, PurePosixPath
from typing import Any

from stages.running.leash import alone
from stages.running.progress import progress

MANIFEST = "tandem-manifest.json"
"""Beside what a stage wrote: the sha256 of every file, by its path."""
UNFINISHED = ""
"""A path in the manifest of an output that is being sent; no file has it."""
STATE = ".state.json"
"""Beside a mirror: of every file, what told its version there."""
VERSION = ("etag", "ETag", "md5", "contentHash", "mtime", "LastModified", "updated", "modify", "created")
"""Where the stores that fsspec knows say which version of a file they hold; the first that one has is taken."""


def is_url(word: str) -> bool:
    """Whether `word` names a place on another store, and no path of this disk."""
    return "://" in word


def fetch(url: str, work: Path) -> Path:
    """What lies at `url`, a file or a folder, as a path of this disk below `work`; what did not change is not fetched again.

    Raises:
        ValueError: there is nothing at `url`, or it cannot be read, or is a stage's output that was not sent to its end.
    """
    mirror = work / "places" / hashlib.sha256(url.encode()).hexdigest()[:16]
    with alone(f"place-{mirror.name}", work):
        store, root = _opened(url)
        try:
            there = _listed(store, root)
        except (OSError, ValueError) as error:
            raise ValueError(f"{url} cannot be read: {error}") from error
        if not there:
            raise ValueError(f"there is nothing at {url}")
        single = set(there) == {""}
        name = PurePosixPath(root).name
        kept = {path or name: about for path, about in there.items()}
        _refresh(store, root, kept, mirror, single)
    return mirror / "files" / name if single else mirror / "files"


def _refresh(store: Any, root: str, there: dict[str, str], mirror: Path, single: bool) -> None:
    files, state = mirror / "files", mirror / STATE
    files.mkdir(parents=True, exist_ok=True)
    had: dict[str, str] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for path in had.keys() - there.keys():
        (files / path).unlink(missing_ok=True)
    stale = [path for path in sorted(there) if had.get(path) != there[path] or not (files / path).is_file()]
    had = {path: about for path, about in had.items() if path in there and path not in stale}
    # Noted before anything changes: what is half fetched when this is killed is fetched again.
    state.write_text(json.dumps(had), encoding="utf-8")
    for path in progress(stale, "fetch", "file"):
        target = files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            store.get_file(root if single else f"{root}/{path}", str(partial))
        except OSError as error:
            raise ValueError(f"{root}/{path} cannot be read: {error}") from error
        partial.replace(target)
        had[path] = there[path]
    state.write_text(json.dumps(had, sort_keys=True), encoding="utf-8")
    if (files / MANIFEST).is_file():
        _hold(root, files, json.loads((files / MANIFEST).read_text(encoding="utf-8")))


def _hold(root: str, files: Path, manifest: dict[str, str]) -> None:
    """What a stage sent is what arrived here."""
    if UNFINISHED in manifest:
        raise ValueError(f"{root} was not sent to its end; run the stage that writes it again")
    wrong = [path for path, digest in manifest.items() if not (files / path).is_file() or _sha256(files / path) != digest]
    if wrong:
        raise ValueError(f"{root} is not what its manifest says ({len(wrong)} files, first {min(wrong)}); write it again")


def send(made: Path, url: str) -> None:
    """Put the file or folder `made` at `url`, in place of what is there; files that are there already are not sent again.

    Raises:
        ValueError: the place cannot be written to.
    """
    store, root = _opened(url)
    paths = {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}
    try:
        if made.is_file():
            store.makedirs(store._parent(root), exist_ok=True)
            store.put_file(str(made), root)
            return
        manifest = {name: _sha256(path) for name, path in paths.items()}
        before, there = _manifest(store, root), _listed(store, root)
        if there and MANIFEST not in there:
            raise ValueError(
                f"{url} holds what no stage sent there ({min(there) or 'a file'}), and would be replaced; name another place"
            )
        store.makedirs(root, exist_ok=True)
        store.pipe_file(f"{root}/{MANIFEST}", json.dumps({UNFINISHED: ""} | before).encode())
        for name in progress(manifest, "send", "file"):
            if name not in there or before.get(name) != manifest[name]:
                target = f"{root}/{name}"
                store.makedirs(store._parent(target), exist_ok=True)
                store.put_file(str(paths[name]), target)
        for name in there.keys() - manifest.keys() - {MANIFEST}:
            store.rm_file(f"{root}/{name}")
        store.pipe_file(f"{root}/{MANIFEST}", json.dumps(manifest, sort_keys=True, indent=1).encode())
    except OSError as error:
        raise ValueError(f"{url} cannot be written to: {error}") from error


def _manifest(store: Any, root: str) -> dict[str, str]:
    try:
        return json.loads(store.cat_file(f"{root}/{MANIFEST}"))
    except (FileNotFoundError, ValueError):
        return {}


def _opened(url: str) -> tuple[Any, str]:
    """The store, and the path in it; a store's settings and keys come from the environment, as its own tools take them."""
    if "::" in url:
        raise ValueError(f"{url} names a place within a place; name the file or folder itself")
    from fsspec.core import url_to_fs  # here, for few words are URLs

    try:
        # Without a store of instances: a listing of an hour ago is no listing.
        store, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{url} cannot be opened: {error}; S3 needs the extra: pip install -c constraints.txt -e '.[s3]'"
        ) from error
    return store, root.rstrip("/")


def _listed(store: Any, root: str) -> dict[str, str]:
    """Every file at `root` by its path below it, with what tells its version; of a file itself, the path is empty.

    Raises:
        ValueError: a name leads out of the folder.
    """
    try:
        found = store.find(root, detail=True)
    except FileNotFoundError:
        return {}
    listed = {}
    for full, about in found.items():
        path = full[len(root) :].lstrip("/")
        if ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path:
            raise ValueError(f"the name {full!r} leads out of its folder")
        if path == STATE or full.endswith("/"):
            continue
        version = next((str(about[field]) for field in VERSION if about.get(field) is not None), "")
        # Where nothing tells the version, the file is another one each time.
        listed[path] = f"{about.get('size')} {version or time.time_ns()}"
    return listed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
