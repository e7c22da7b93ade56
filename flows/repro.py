"""Bring one stage up to date through DVC, in a process of its own: `python -m flows.repro STAGE`.

A process of its own because DVC's locks are between processes, its targets are relative to the working directory, and a
command it runs writes straight to the terminal. The first line written is DVC's status of the stage, as JSON.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from stages.running.leash import follow_parent


def main(stage: str) -> int:
    """Write what changed, then run `dvc repro --single-item`; the exit status is DVC's."""
    from dvc.cli import main as dvc

    # Other stages may be committing right now; DVC would give up on its lock after three seconds.
    status = dvc(["--wait-for-lock", "status", "--json", stage])
    return status or dvc(["--wait-for-lock", "repro", "--single-item", stage])


def settle_lock(root: Path, order: Sequence[str]) -> None:
    """Put the entries of dvc.lock in `order`, that of `dvc repro`, so that both doors leave the same bytes.

    DVC appends a stage's entry when the stage ends for the first time, which among parallel stages is luck.
    """
    from dvc.repo import Repo, lock_repo
    from dvc.utils.serialize import dumps_yaml, load_yaml

    path = root / "dvc.lock"
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        if not path.is_file():
            return
        lock = load_yaml(str(path))
        found = lock["stages"]
        settled = {name: found[name] for name in [*order, *found] if name in found}
        if list(settled) == list(found):
            return
        beside = path.with_name(".dvc.lock.partial")
        beside.write_text(dumps_yaml({**lock, "stages": settled}), encoding="utf-8")
        beside.replace(path)


if __name__ == "__main__":
    follow_parent()
    sys.exit(main(sys.argv[1]))
