"""Albums: the pictures of one written folder or zip, each under a name of its own, and no picture in two places."""

import hashlib
import zipfile
from pathlib import Path

from stages.collection.drawing import png
from stages.collection.scene import Scene

SOME_DAY = (2024, 1, 1, 0, 0, 0)
"""The date of every zip member, because the hour of writing must not be in the bytes."""


class Album:
    """Pictures by name, in the order they came; the same picture added again keeps its first name."""

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.names: dict[str, str] = {}

    def add(self, scene: Scene) -> str:
        """Paint `scene` and return its picture's name."""
        content = png(scene.paint())
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.names:
            name = f"{scene.family}-{len(self.pictures):05d}.png"
            self.names[digest] = name
            self.pictures[name] = content
        return self.names[digest]

    def has(self, scene: Scene) -> bool:
        """Whether this very picture is here."""
        return hashlib.sha256(png(scene.paint())).hexdigest() in self.names

    def write_folder(self, folder: Path) -> None:
        """A file for each picture."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.pictures.items():
            (folder / name).write_bytes(content)

    def write_zip(self, path: Path) -> None:
        """One zip with all pictures; stored, because PNG is compressed already."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in self.pictures.items():
                archive.writestr(zipfile.ZipInfo(name, SOME_DAY), content)
