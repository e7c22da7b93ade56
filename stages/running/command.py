"""A stage function as a command: `python -m stages.curate PATHS…`, with its section of params.yaml.

The function's signature is the command line. Its first argument is the stage's `Params`, which comes from the params file;
the rest are words of the command, in order. An argument annotated `Path` is read and must exist; one annotated `Out` is
written: the function is handed a place beside it, and only a run that ends well moves that into place, so an output is
whole or absent, whenever the process is killed. Either may be a URL (`stages/running/places.py`). A `str` is passed as it is.
"""

import argparse
import contextlib
import hashlib
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from stages.running.compute import Compute, use
from stages.running.garbage import imported
from stages.running.leash import alone, follow_parent
from stages.running.places import expect, fetched, is_url, send
from stages.running.section import Section, read_params, section_of

Out = Annotated[Path, "written whole or not at all"]
WORK = Path(".work")
"""Where stages keep what they may lose: locks and checkpoints. Never a dependency, never an output."""


def run(stage: Callable[..., None]) -> None:
    """Run `stage` with this process's arguments; a user's mistake ends in one plain message and exit status 2."""
    imported()
    follow_parent()
    name = stage.__name__
    arguments = _parser(stage).parse_args()
    try:
        sections = read_params(arguments.params)
        params = section_of(params_of(stage), name, sections, arguments.params)
        use(section_of(Compute, "compute", sections, arguments.params))
        # Named by what is written: two runs that write to one place exclude each other, whatever else they are told.
        written = next(getattr(arguments, word) for word, kind in _words(stage).items() if get_origin(kind) is Annotated)
        lock = ".".join([name, *Path(written).parts]).replace("/", "").replace(":", "")
        read = [getattr(arguments, word) for word, kind in _words(stage).items() if kind is Path]
        with alone(lock, WORK), fetched(filter(is_url, read), WORK) as here, _whole_outputs(stage, arguments, here) as words:
            stage(params, **words)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("TANDEM_TRACEBACK"):
            raise
        print(f"\n{name}: {error}\n(TANDEM_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(2) from None


def params_of(stage: Callable[..., None]) -> type[Section]:
    """The `Params` class of a stage function: the annotation of its first argument."""
    first = next(iter(inspect.signature(stage).parameters))
    kind = get_type_hints(stage)[first]
    assert inspect.isclass(kind), f"{stage.__name__}: first argument must be its Params, got {kind}"
    assert issubclass(kind, Section), f"{stage.__name__}: first argument must be its Params, got {kind}"
    return kind


def _words(stage: Callable[..., None]) -> dict[str, Any]:
    hints = get_type_hints(stage, include_extras=True)
    return {name: hints[name] for name in list(inspect.signature(stage).parameters)[1:]}


def _parser(stage: Callable[..., None]) -> argparse.ArgumentParser:
    doc = inspect.getdoc(sys.modules[stage.__module__]) or inspect.getdoc(stage) or ""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage.__name__}", description=doc.split("\n\n")[0])
    for name, kind in _words(stage).items():
        parser.add_argument(name, help="read" if kind is Path else "written" if kind is Out else "a name")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file (params.yaml)")
    return parser


@contextlib.contextmanager
def _whole_outputs(
    stage: Callable[..., None], arguments: argparse.Namespace, here: Mapping[str, Path]
) -> Iterator[dict[str, Any]]:
    """The stage's words, where `here` says what URLs are read from; what it wrote is moved into place at the end."""
    words: dict[str, Any] = {}
    moves: list[tuple[Path, Path, str]] = []
    for name, kind in _words(stage).items():
        given = getattr(arguments, name)
        if get_origin(kind) is Annotated:
            if is_url(given):
                expect(given)
            final = _here(given)
            partial = final.with_name(f".{final.name}.partial")
            final.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            moves.append((partial, final, given))
            words[name] = partial
        elif kind is Path:
            words[name] = here[given] if is_url(given) else Path(given)
            if not words[name].exists():
                raise ValueError(f"{name}: there is nothing at {given}; `dvc repro` makes what a stage reads")
        else:
            words[name] = given
    yield words
    for partial, final, _ in moves:
        assert partial.exists(), f"{stage.__name__} wrote nothing to {final}"
    for partial, final, given in moves:
        _remove(final)
        partial.rename(final)
        if is_url(given):
            send(final, given)
            _remove(final)


def _here(given: str) -> Path:
    """Where on this disk an output is made: at its own place, or what goes to another store, below `WORK`."""
    return WORK / "outgoing" / hashlib.sha256(given.encode()).hexdigest()[:16] if is_url(given) else Path(given)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
