"""Why a stage runs, in words, from what DVC says changed."""

from pathlib import Path
from typing import Any

import yaml

from stages.running.section import Yaml, read_params


def reasons(status: dict[str, list[Any]], before: dict[str, Any], now: dict[str, Any]) -> str:
    """DVC's status of one stage in words, empty if it is up to date.

    {"curate": [{"changed deps": {"params.yaml": {"curate": "modified"}}}]} → "params curate.seed 17 → 18"

    Args:
        status: what `dvc status --json` says of one stage.
        before: the params of its last run, by the keys under which dvc.yaml names them.
        now: all params.
    """
    changed: list[str] = []
    outputs: list[str] = []
    for entry in [entry for entries in status.values() for entry in entries]:
        changes = entry if isinstance(entry, dict) else {entry: {}}
        for path, how in changes.get("changed deps", {}).items():
            if how == "new":
                return "it has not run before"
            if isinstance(how, dict):
                for key, what in how.items():
                    changed += differences(f"params {key}", before.get(key), _at(now, key)) or [f"params {key} {what}"]
            else:
                changed.append(f"{path} {how}")
        outputs += [f"output {path} {how}" for path, how in changes.get("changed outs", {}).items()]
        changed += [kind for kind in changes if kind not in ("changed deps", "changed outs")]
    # A stage whose inputs changed mostly has changed outputs too: DVC removes them before it runs.
    return ", ".join(changed or outputs)


def differences(name: str, before: Any, now: Any) -> list[str]:
    """Each value that differs, by its full name; None stands for a value that is not there."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [] if before == now else [f"{name} {before} → {now}"]


def last_params(root: Path, stage: str) -> dict[str, Any]:
    """The params of a stage's last run, as dvc.lock keeps them; empty if it never ran, or if that cannot be read now."""
    try:
        found = yaml.load((root / "dvc.lock").read_text(encoding="utf-8"), Yaml)
    # DVC writes the file in place, and a stage beside this one may be at it. Waiting for DVC's lock is not worth it: what is
    # read here only words a sentence, and what must run is for DVC to say.
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    for part in ("stages", stage, "params", "params.yaml"):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def params(root: Path) -> dict[str, Any]:
    """All values of params.yaml."""
    return read_params(root / "params.yaml")


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
