"""A stage dies with the process that started it, and no two runs of one stage ever write side by side.

A killed `dvc repro` leaves its child running. The next run would delete the outputs and start a twin beside the orphan,
and the two would write into each other. So an orphan ends itself, and a newcomer waits until it has.
"""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ash", "ksh"}
LOOK_EVERY_SECONDS = 0.2


def follow_parent() -> None:
    """Watch the process that started this one, and kill this one and its children as soon as that is gone.

    A shell between the two (`sh -c "python -m stages.train"`) is looked through: it would outlive a killed dvc.
    Watching instead of Linux's parent-death signal, because that cannot see past the shell and does not exist elsewhere.
    """
    starter = _starter()
    if starter is not None:
        threading.Thread(target=_watch, args=(starter,), daemon=True, name="leash").start()


def _starter() -> psutil.Process | None:
    process = psutil.Process().parent()
    while process is not None:
        try:
            is_shell = process.name() in SHELLS and "-c" in process.cmdline()
        except psutil.Error:
            return process
        if not is_shell:
            return process
        process = process.parent()
    return None


def _watch(starter: psutil.Process) -> None:
    while starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
        time.sleep(LOOK_EVERY_SECONDS)
    print(f"the process that started this one (pid {starter.pid}) is gone; ending too", file=sys.stderr, flush=True)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def alone(name: str, work: Path) -> Iterator[None]:
    """Hold the lock of stage `name` under `work`; wait, and say so, while another run of it still holds it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another run of this stage is alive; waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
