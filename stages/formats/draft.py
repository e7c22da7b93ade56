"""What a format reads out of one row: an example whose pictures are still names, or the reason there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from stages.corpus.example import Turn

T = TypeVar("T")


class UnreadableError(Exception):
    """A row no example can be made of; its text is the ledger's reason, `name` or `name: detail`."""


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of a source's instructions file."""

    domain: str
    kind: str
    instructions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as its format understands it; `images` are pictures, or the names the row gives them, not yet looked up."""

    id: str
    task: str
    domain: str
    kind: str
    images: tuple[str | bytes, ...]
    turns: tuple[Turn, ...]
    templated: bool
    language: str = ""
    """As BCP 47 names it; empty where the row and its file do not say."""


UNKNOWN_DOMAIN = "other"


def field(row: Mapping[str, Any], name: str, wanted: type[T], default: T | None = None) -> T:
    """`row[name]`; or `default`, if there is one, where the field is absent or null.

    Raises:
        UnreadableError: the field is missing and has no default, or is of another type.
    """
    value = row.get(name)
    if value is None:
        if default is None:
            raise UnreadableError(f"missing_field: {name}")
        return default
    if not isinstance(value, wanted):
        raise UnreadableError(f"wrong_type: {name} is {type(value).__name__}, wanted {wanted.__name__}")
    return value


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that holds one text or a list of them (`"image": "a.jpg"`, `["a.jpg", "b.jpg"]`); absent or null: none."""
    value = row.get(name)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for one in values:
        if not isinstance(one, str):
            raise UnreadableError(f"wrong_type: {name} holds {type(one).__name__}, wanted str")
    return tuple(values)


def identity(row: Mapping[str, Any], name: str) -> str:
    """The row's upstream id as text; empty where it has none. Ids are labels for people: many releases repeat them."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnreadableError(f"wrong_type: {name} is {type(value).__name__}, wanted str")
    return str(value)


def objects(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The objects of a row's list, which the library `datasets` may have written as one object of lists.

    Raises:
        UnreadableError: the list is absent or empty, or is no list of objects.
    """
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise UnreadableError(f"wrong_type: {name} has lists of different lengths")
        value = [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    if value is None or value == []:
        raise UnreadableError("no_conversation")
    if not isinstance(value, list):
        raise UnreadableError(f"wrong_type: {name} is {type(value).__name__}, wanted list")
    for number, one in enumerate(value):
        if not isinstance(one, dict):
            raise UnreadableError(f"wrong_type: {name}[{number}] is {type(one).__name__}, wanted object")
    return value
