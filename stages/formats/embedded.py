"""Pictures that a row brings along: as bytes, as Parquet's `{bytes, path}`, as a data URL; or by name, as in most formats."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.corpus.example import IMAGE, Turn
from stages.formats.draft import UnreadableError
from stages.formats.pictures import MAX_BYTES, confined

Picture = str | bytes
"""A picture's name, to be looked up in the source, or the picture itself."""


def pictures_in(row: Mapping[str, Any], name: str) -> tuple[Picture, ...]:
    """The pictures of a field that holds one or a list of them; absent or null: none.

    Raises:
        UnreadableError: one of them is broken, empty, too large, or no picture at all.
    """
    value = row.get(name)
    if value is None:
        return ()
    return tuple([picture(one, name) for one in value]) if isinstance(value, list) else (picture(value, name),)


def picture(value: Any, where: str) -> Picture:
    """One picture, in whatever form the row's field `where` has it.

    Raises:
        UnreadableError: as `pictures_in`.
    """
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path is None:
            raise UnreadableError(f"missing_image: {where} has neither bytes nor a path")
        # `path` beside bytes is where they came from: often a file of a machine long gone.
        value, where, wanted = (path, f"{where}.path", str) if content is None else (content, f"{where}.bytes", bytes)
        if not isinstance(value, wanted):
            raise UnreadableError(f"wrong_type: {where} is {type(value).__name__}, wanted {wanted.__name__}")
    if isinstance(value, bytes):
        return confined(value, where)
    if isinstance(value, str):
        return _of_data_url(value, where) if value[:5].lower() == "data:" else value
    raise UnreadableError(f"wrong_type: {where} holds {type(value).__name__}, wanted str")


def _of_data_url(url: str, where: str) -> bytes:
    # Looked at before it is decoded: base64 takes four letters for three bytes, and lines may be broken.
    if len(url) > MAX_BYTES // 2 * 3:
        raise UnreadableError(f"image_too_large: the data URL in {where} has more than {MAX_BYTES // 2**20} MiB")
    head, _, body = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise UnreadableError(f"broken_data_url: {where} does not begin as one of base64: {head[:40]!r}")
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise UnreadableError(f"broken_data_url: {where}: {error}") from error
    return confined(content, where)


def marked(turns: Sequence[Turn], pictures: int) -> tuple[Turn, ...]:
    """`turns` with a mark for each picture before the first question, in formats that may leave the marks out.

    Where a question has a mark already, all stay as they are: whether they are right is for the contract to say.
    """
    asked = [number for number, turn in enumerate(turns) if turn.role == "user"]
    if not pictures or not asked or any(IMAGE in turns[number].text for number in asked):
        return tuple(turns)
    first = asked[0]
    shown = replace(turns[first], text="\n".join([*[IMAGE] * pictures, turns[first].text]))
    return (*turns[:first], shown, *turns[first + 1 :])
