"""Where a run came from: git's commit, DVC's digests, every value of params.yaml."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.running.section import read_params


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a run came from: no inputs of the stage, but what a person asks of a version months later."""

    tags: dict[str, str]
    """git's commit, whether code differed from it, and `md5.<path>` of every output DVC has recorded."""
    params: dict[str, str]
    """The whole of params.yaml, flat: `train.lora.rank` → `16`."""


def facts_of_run(folder: Path) -> Facts:
    """The facts of a run in `folder`: from git, dvc.lock and params.yaml, each left out where it is not there.

    dvc.lock cannot be a dependency: DVC writes it anew after every stage.
    """
    tags = {"git_commit": _git(folder, "rev-parse", "HEAD") or "none"}
    if tags["git_commit"] != "none":
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
        tags["git_differs"] = "yes" if changed else "no"
    lock = folder / "dvc.lock"
    if lock.is_file():
        stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
        stages.pop("register", None)  # the verdict of the run before
        for stage in stages.values():
            tags |= {f"md5.{out['path']}": out["md5"] for out in stage.get("outs", []) if "md5" in out}
    settings = folder / "params.yaml"
    return Facts(tags, dict(flat(read_params(settings))) if settings.is_file() else {})


def _git(folder: Path, *words: str) -> str | None:
    """What git says, None where git or a repository is missing."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """What stands in nested mappings, each by its name with dots; what is no text, as JSON."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
