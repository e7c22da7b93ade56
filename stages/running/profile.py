"""Profiles: whole parameter sets by name, and how one becomes params.yaml: `python -m stages.running.profile NAME`.

A file of profiles/ is a whole set, or names by `over` the one it stands on and holds only what differs from that, so that what
a recipe is can be read in one screen. A key that the other does not have is refused. Mappings are laid over each other key by
key; lists and everything else are replaced, and so is `ingest.sources` with all that is in it, whose keys are names.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from stages.running.provenance import flat
from stages.running.section import read_params

PROFILES = Path("profiles")
OVER = "over"
"""The key of a profile that names the one it stands on."""
NAMES = {"ingest.sources"}
"""Mappings from names, not keys: replaced whole."""
EOL = 2
"""Where ruamel keeps the comment behind a value."""
SHOWN = 8
"""Differing keys that are named before the rest is counted."""


def main() -> int:
    """Write params.yaml, unless that would lose what a person changed there; the exit status is 2 then."""
    parser = argparse.ArgumentParser(prog="python -m stages.running.profile", description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument("name", help="a file of profiles/, without .yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="what is written (params.yaml)")
    parser.add_argument("--force", action="store_true", help="whatever stands there now")
    arguments = parser.parse_args()
    try:
        changed = put(arguments.name, arguments.params, arguments.force)
    except ValueError as error:
        print(f"\nprofile: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.params} {'now holds' if changed else 'holds already'} profile {arguments.name}")
    return 0


def put(name: str, params: Path, force: bool) -> bool:
    """Write the profile `name` to `params`; whether that changed a value.

    Raises:
        ValueError: there is no such profile, it is faulty, or `params` holds what is in no profile and `force` is False.
    """
    text = written(place_of(name))
    if params.is_file() and not force:
        now = read_params(params)
        if now == read_profile(place_of(name)):
            return False
        nearest, differing = min(((path.stem, _differing(now, path)) for path in every()), key=lambda found: len(found[1]))
        if differing:
            more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            raise ValueError(
                f"{params} is {nearest} but for {', '.join(differing[:SHOWN])}{more}, which would be lost. "
                f"Keep it as a profile of your own (cp {params} {PROFILES}/MINE.yaml), or let it go (FORCE=1, or --force)"
            )
    partial = params.with_name(f".{params.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(params)
    return True


def every() -> list[Path]:
    """The files of all profiles."""
    return sorted(PROFILES.glob("*.yaml"))


def place_of(name: str) -> Path:
    """The file of the profile `name`.

    Raises:
        ValueError: there is none.
    """
    path = PROFILES / f"{name}.yaml"
    if path not in every():
        raise ValueError(f"there is no profile {name!r}; {PROFILES}/ has {', '.join(one.stem for one in every()) or 'none'}")
    return path


def read_profile(path: Path) -> dict[str, Any]:
    """All sections of the profile in the file `path`, as plain values.

    Raises:
        ValueError: a file of it is no params file, has a key that the one below has not, or stands on itself.
    """
    layers = list(_layers(path))
    whole = read_params(layers[-1])
    for layer in reversed(layers[:-1]):
        changes = read_params(layer)
        del changes[OVER]
        _lay(whole, changes, layer)
    return whole


def written(path: Path) -> str:
    """The text of the profile in the file `path` as a whole params file, with its comments and those of what it stands on."""
    layers = list(_layers(path))
    if len(layers) == 1:
        return path.read_text(encoding="utf-8")
    yaml = _yaml()
    whole, general = yaml.load(layers[-1].read_text(encoding="utf-8")), dict[str, str]()
    for layer in reversed(layers[:-1]):
        changes = yaml.load(layer.read_text(encoding="utf-8"))
        del changes[OVER]
        _lay(whole, changes, layer, general)
    whole.ca.comment = None
    made = StringIO()
    yaml.dump(whole, made)
    return "".join([*_head(path), f"# Written from {path} by `make run PROFILE={path.stem}`.\n\n", made.getvalue().lstrip()])


def _yaml() -> YAML:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 10_000
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _head(path: Path) -> Iterator[str]:
    """The comment that a file begins with."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith("#"):
            return
        yield line


def _layers(path: Path) -> Iterator[Path]:
    """`path`, what it stands on, and so on down to a whole set."""
    seen: list[Path] = []
    while True:
        if path in seen:
            raise ValueError(f"{path}: {OVER} leads back to itself: {' over '.join(one.stem for one in seen)}")
        seen.append(path)
        yield path
        below = read_params(path).get(OVER)
        if below is None:
            return
        beside = path.with_name(f"{below}.yaml")
        if not beside.is_file():
            raise ValueError(f"{path}: {OVER} names {below!r}, and there is no {beside}")
        path = beside


def _lay(
    below: dict[str, Any], changes: Mapping[str, Any], path: Path, general: dict[str, str] | None = None, within: str = ""
) -> None:
    """Lay `changes` over `below`, in place; with `general`, what the whole set says of a key, their comments too."""
    for key, value in changes.items():
        name = f"{within}{key}"
        if key not in below:
            raise ValueError(f"{path}: {name} is no known key; {within.rstrip('.') or 'a profile'} has {', '.join(below)}")
        if isinstance(below[key], dict) and isinstance(value, Mapping) and name not in NAMES:
            _lay(below[key], value, path, general, f"{name}.")
            continue
        below[key] = value
        if general is not None:
            _comment(below, changes, key, general, name)


def _comment(below: Any, changes: Any, key: str, general: dict[str, str], name: str) -> None:
    """Give `key` the comment that it has in `changes`; where it has none, the one of the whole set, which fits any value."""
    found, own = (one.ca.items.get(key, [None] * 4)[EOL] for one in (below, changes))
    first, _, behind = found.value.partition("\n") if found else ("", "", "")  # empty lines behind it are the comment's
    text = general.setdefault(name, first)
    mine = own.value.partition("\n")[0] if own else ""
    below.ca.items.pop(key, None)
    if mine or text or behind:
        column = own.column if mine else found.column
        below.ca.items[key] = [None, None, CommentToken(f"{mine or text}\n{behind}", CommentMark(column), None), None]


def _differing(now: dict[str, Any], path: Path) -> list[str]:
    """The keys in which the values `now` are not those of the profile in the file `path`."""
    mine, theirs = dict(flat(now)), dict(flat(read_profile(path)))
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


if __name__ == "__main__":
    sys.exit(main())
