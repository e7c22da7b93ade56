"""What pieces of work gave in earlier runs, by what they were made of: a run that meets them again does not do them again.

DVC knows that a stage is stale; it does not know that one shard of a hundred is. A stage asks here for each of its shards, does
only what is missing, and so repeats work in proportion to what is new. What is kept lies under `.work`: it is never a
dependency and never an output, and whoever removes it loses time alone: a key is the digest of all that a result hangs on.

Runs that work in one folder share what is kept, and each forgets what it did not ask for: under another run's hands, if the two
worked at once. So of two that do the same kind of work, on other data or into another place, the second waits for the first.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from stages.running.command import WORK
from stages.running.leash import alone

LIBRARIES = (
    *("numpy", "pandas", "polars", "pyarrow", "pillow", "simplejpeg", "scipy", "great-expectations"),
    *("tokenizers", "transformers", "jinja2"),
)
"""Whose versions, besides Python's, may change what comes out of a piece of work."""


class Memo:
    """The results of one kind of work, for one run at a time, from `with` on; a second one waits there, and says so.

    Those that a run did not ask for are forgotten when it ends well. Once `with` is left, another run may forget any of them.
    """

    def __init__(self, kind: str, *given: Any, folder: Path | None = None) -> None:
        """`kind`: whose results, as a folder's name. `given`: what all of them depend on besides our code and libraries."""
        self.folder = (folder or WORK / "memo") / kind
        self.given = digest(code(), *given)
        self.asked: set[str] = set()
        self._held = ExitStack()

    def recall(self, *parts: Any) -> Path | None:
        """The file that was kept for `parts`; None if there is none, or if somebody changed it since."""
        path = self._path(parts)
        noted = path.with_suffix(".size")
        try:
            whole = _stamp(path) == noted.read_text(encoding="utf-8")
        except FileNotFoundError:
            whole = False
        return path if whole else None

    def keep(self, write: Callable[[Path], object], *parts: Any) -> Path:
        """Have `write` make the file for `parts`, and keep it: whole, or not at all if it is killed on the way."""
        path = self._path(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        write(partial)
        path.with_suffix(".size").unlink(missing_ok=True)
        partial.replace(path)
        path.with_suffix(".size").write_text(_stamp(path), encoding="utf-8")
        return path

    def _path(self, parts: tuple[Any, ...]) -> Path:
        name = digest(self.given, *parts)
        self.asked.add(name)
        return self.folder / name

    def __enter__(self) -> "Memo":
        self._held.enter_context(alone(self.folder.name, self.folder.parent))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            if kind is None and self.folder.is_dir():
                for path in self.folder.iterdir():
                    if path.name.removesuffix(".size") not in self.asked:
                        path.unlink(missing_ok=True)


def place(kept: Path, to: Path) -> None:
    """`kept` at `to`: the same file under a second name where the file system allows it, else a copy. Never write to it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    try:
        os.link(kept, to)
    except OSError:
        shutil.copyfile(kept, to)


def digest(*parts: Any) -> str:
    """A name for `parts`: texts, numbers, bytes, lists and dicts of these; of a path, what its file holds."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        elif isinstance(part, bytes):
            content = hashlib.sha256(part).digest()
        else:
            content = hashlib.sha256(json.dumps(part, sort_keys=True, ensure_ascii=True).encode()).digest()
        made.update(content)
    return made.hexdigest()


@cache
def code() -> str:
    """A name for all that computes: every file of the stages, and the versions of the libraries below them."""
    root = Path(__file__).parents[1]
    files = [[path.relative_to(root).as_posix(), digest(path)] for path in sorted(root.rglob("*.py"))]
    return digest(files, [[name, _version(name)] for name in LIBRARIES], sys.version)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _stamp(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns}"
