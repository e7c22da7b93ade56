"""A stage's section of params.yaml as a frozen record: every field documented, none with a default, no key unknown."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """The base of every stage's `Params`: values come from params.yaml alone, and a misspelt key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Yaml(yaml.CSafeLoader):
    """YAML with the numbers of version 1.2, as DVC reads and writes them: to PyYAML's 1.1, `2e-05` is a text."""


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _mapping(loader: Yaml, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    """A mapping none of whose keys stands twice: YAML would take the last, and what the first held would be gone."""
    seen: set[Any] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice in one mapping", key.start_mark)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Yaml.add_constructor("tag:yaml.org,2002:map", _mapping)

S = TypeVar("S", bound=Section)


def read_params(path: Path) -> dict[str, Any]:
    """All sections of a params file, as plain values.

    Raises:
        ValueError: the file is missing, is not YAML, or is no mapping of sections.
    """
    if not path.is_file():
        raise ValueError(f"there is no params file at {path}; run from the project's folder, or name one with --params")
    try:
        sections = yaml.load(path.read_text(encoding="utf-8"), Yaml)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(sections, dict):
        raise ValueError(f"{path} must map each stage to its section, got {type(sections).__name__}")
    return sections


def section_of(kind: type[S], name: str, sections: dict[str, Any], path: Path) -> S:
    """The section `name`, checked against `kind`.

    Raises:
        ValueError: a line per fault, each with the key's full name, what was given, and what was wanted.
    """
    if name not in sections:
        raise ValueError(f"{path} has no section '{name}:'; it has {', '.join(sorted(sections))}")
    try:
        return kind.model_validate(sections[name])
    except ValidationError as error:
        raise ValueError(f"{path}: {_faults(name, kind, error)}") from error


def _faults(name: str, kind: type[Section], error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join([name, *(str(part) for part in fault["loc"])])
        if fault["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields) if len(fault["loc"]) == 1 else "see the section's comments"
            lines.append(f"{key} is no known key; known here: {known}")
        elif fault["type"] == "missing":
            lines.append(f"{key} is missing; every key of a section must be given")
        elif fault["type"] == "value_error" and isinstance(fault["input"], dict):  # of several keys together
            lines.append(f"{key}: {fault['ctx']['error']}")
        else:
            lines.append(f"{key}: {fault['msg']}, got {fault['input']!r}")
    return "\n  ".join(["wrong values, mend them there:", *lines])
