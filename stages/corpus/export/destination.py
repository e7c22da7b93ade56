"""Where an export goes, and the manifest of what was written there."""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from stages.corpus.ledger import TUNING
from stages.running.command import WORK
from stages.running.leash import alone
from stages.running.memo import digest
from stages.running.places import MANIFEST, is_url
from stages.running.remote import has_bucket, make_room, opened, told

CARD = "README.md"
OURS = re.compile(rf"(?:{'|'.join(TUNING)})/\d{{5}}\.parquet|{re.escape(CARD)}|{re.escape(MANIFEST)}")
"""What an export writes; a folder that holds anything else is not replaced by one."""


class Destination:
    """Where an export goes: a folder of this disk, which appears whole; or of another store, where the manifest comes last.

    `places.send` keeps the same promise of what a stage wrote, but wants all of that on this disk first. An export holds every
    picture and may be larger than the disk, so each file is sent, and removed here, as soon as it is whole.
    """

    def __init__(self, to: str) -> None:
        """Raises `ValueError` where something lies that is no export, or the store cannot be opened."""
        self.to = to
        self.manifest: dict[str, str] = {}
        self.store: Any = None
        if is_url(to):
            self.store, self.root = opened(to)
            with told(to, "written to"):
                has_bucket(self.store, self.root)
        else:
            self.final = Path(to)
        self._listed()

    def _listed(self) -> set[str]:
        """The files that are there, of an earlier export; raises `ValueError` if there are others."""
        if self.store is not None:
            with told(self.to, "written to"):
                there = {name[len(self.root) :].lstrip("/") for name in self.store.find(self.root)}
        elif self.final.exists() and not self.final.is_dir():
            raise ValueError(f"{self.to} is a file; name a folder")
        else:
            there = {path.relative_to(self.final).as_posix() for path in self.final.rglob("*") if path.is_file()}
        if strange := sorted(name for name in there if not OURS.fullmatch(name)):
            raise ValueError(f"{self.to} holds files that no export wrote (first {strange[0]}); name a folder of its own")
        return there

    def put(self, name: str) -> None:
        """The file `name` in `folder` is whole."""
        path = self.folder / name
        with path.open("rb") as file:
            self.manifest[name] = hashlib.file_digest(file, "sha256").hexdigest()
        if self.store is not None:
            target = f"{self.root}/{name}"
            with told(self.to, "written to"):
                make_room(self.store, target)
                self.store.put_file(str(path), target)
            path.unlink()

    def write(self, name: str, text: str) -> None:
        """Write a file of text."""
        (self.folder / name).write_text(text, encoding="utf-8")
        self.put(name)

    def __enter__(self) -> "Destination":
        WORK.mkdir(exist_ok=True)
        with contextlib.ExitStack() as held:
            # Two exports to one place wait for each other; and what the first wrote, the second finds there.
            place = self.to if self.store is not None else str(self.final.resolve())
            held.enter_context(alone(f"export-{digest(place)[:16]}", WORK))
            self.before = self._listed()
            self.scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="export-", dir=WORK)))
            if self.store is None:
                self.folder = self.final.with_name(f".{self.final.name}.partial")
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
            else:
                self.folder = self.scratch
                if MANIFEST in self.before:
                    with told(self.to, "written to"):
                        self.store.rm_file(f"{self.root}/{MANIFEST}")
            self.open = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.open:
            if kind is None:
                self._finish(json.dumps(self.manifest, sort_keys=True, indent=1))
            elif self.store is None:
                shutil.rmtree(self.folder)

    def _finish(self, manifest: str) -> None:
        if self.store is None:
            (self.folder / MANIFEST).write_text(manifest, encoding="utf-8")
            if self.final.exists():
                shutil.rmtree(self.final)
            self.folder.rename(self.final)
        else:
            with told(self.to, "written to"):
                for name in self.before - self.manifest.keys() - {MANIFEST}:
                    self.store.rm_file(f"{self.root}/{name}")
                self.store.pipe_file(f"{self.root}/{MANIFEST}", manifest.encode())
