"""WebDataset's shards: a tar of samples, each of some files of one name: `0001.json` is the row, `0001.jpg` its picture.

The row is in any of the formats. The sample's pictures are the row's `images`, and go before what the row itself names as
its pictures; several (`0001.0.jpg`, `0001.1.jpg`) are in the order of their names, numbers by their value. Other files of
a sample are not read, and neither are files that have no such name (`.DS_Store`, `README`), as WebDataset has it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.formats.draft import UnreadableError
from stages.formats.pictures import MAX_BYTES
from stages.formats.tar import Member, Tar

NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
"""A sample's name, up to the first dot of the file's name, and which of its files this is."""
PICTURE = re.compile(r"(?:.*\.)?(?:bmp|gif|jpe?g|png|ppm|tiff?|webp)", re.IGNORECASE)


def read_samples(path: Path) -> Iterator[Any]:
    """The rows of a shard, in the order in which its samples begin; of a sample that is no row, `UnreadableError`.

    Raises:
        ValueError: the tar is broken, or cut off.
    """
    with Tar(path) as tar:
        samples: dict[str, list[tuple[str, Member]]] = {}
        for name, member in tar.listed:
            if found := NAME.fullmatch(name):
                samples.setdefault(found[1], []).append((found[2], member))
        for key, files in samples.items():
            try:
                row = _row(tar, key, files)
            except UnreadableError as error:
                row = error
            yield row


def _row(tar: Tar, key: str, files: Sequence[tuple[str, Member]]) -> Any:
    members = dict(files)
    if len(members) < len(files):
        raise UnreadableError(f"repeated_member: the shard has two files of one name for {key}")
    if "json" not in members:
        raise UnreadableError(f"no_annotation: {key} has no .json in the shard")
    try:
        row = json.loads(_content(tar, f"{key}.json", members["json"]))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not_json: {error}") from error
    if not isinstance(row, dict):
        return row
    pictures = [_content(tar, f"{key}.{end}", members[end]) for end in sorted(members, key=_by_value) if PICTURE.fullmatch(end)]
    if row.get("id") is None:
        row["id"] = key
    return {**row, "images": pictures} if pictures else row


def _content(tar: Tar, name: str, member: Member) -> bytes:
    if member.size > MAX_BYTES:
        raise UnreadableError(f"file_too_large: {name} has more than {MAX_BYTES // 2**20} MiB")
    return tar.read(member, name, MAX_BYTES)


def _by_value(end: str) -> list[tuple[int, str]]:
    """`2.jpg` before `10.jpg`: between texts stand numbers, of which the longer is the larger."""
    parts = re.split(r"(\d+)", end)
    bare = [part.lstrip("0") if number % 2 else part for number, part in enumerate(parts)]
    return [(len(part) if number % 2 else 0, part) for number, part in enumerate(bare)]
