"""Pictures inside a page: their bytes as a data URI, made smaller where the page would grow heavy."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from stages.corpus.images import read_images, stores

LONGEST_SIDE = 256
"""In pixels; larger pictures are shown in that size."""
HEAVIEST = 24 * 1024
"""In bytes; a heavier picture is stored as JPEG."""
PLAIN = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
"""Formats that every browser shows as they are."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture ready to be shown: `uri` is empty where its bytes could not be read."""

    uri: str
    width: int = 0
    height: int = 0


def picture(content: bytes | None) -> Picture:
    """`content` as a data URI; small pictures byte for byte, others scaled to `LONGEST_SIDE`."""
    if not content:
        return Picture("")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            kind, (width, height) = opened.format or "", opened.size
            if kind in PLAIN and max(width, height) <= LONGEST_SIDE and len(content) <= HEAVIEST:
                return Picture(_uri(PLAIN[kind], content), width, height)
            small = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Picture("")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return Picture(_uri("image/jpeg", buffer.getvalue()), *small.size)


def pictures(wanted: Iterable[str], ingested: Path, benchmarks: Path | None = None) -> dict[str, Picture]:
    """The wanted pictures; those not found are left out.

    Args:
        wanted: sha256 of pictures in the ingest stage's stores, or paths below the benchmarks' folder.
        ingested: the ingest stage's folder, with a folder a source.
        benchmarks: the benchmarks' folder.
    """
    names = sorted(set(wanted))
    found = {digest: picture(content) for digest, content in read_images(stores(ingested), set(names))}
    if benchmarks is not None:
        root = benchmarks.resolve()
        for name in names:
            path = (root / name).resolve()
            if name not in found and "/" in name and path.is_relative_to(root) and path.is_file():
                found[name] = picture(path.read_bytes())
    return found


def _uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
