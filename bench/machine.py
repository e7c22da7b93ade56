"""The machine a figure was measured on: what matters to the figure, and neither its name nor its owner's.

`python bench/machine.py` prints it as JSON, of the Python that runs it.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, it sees only its own folder

import stages

RESULTS = Path(__file__).parent / "results"
RESTARTED = "TANDEM_BENCH_RESTARTED"
"""Environment variable of a process that `as_make_runs` started."""


def as_make_runs(allocator: bool = True) -> None:
    """Start this process anew with the settings `make` gives to every command, where libraries read them only at the start.

    The allocator's among them: without, each way is charged for memory that the one before gave back. With `allocator` False
    it is left as the system has it, which is how whoever knows nothing of these settings runs.
    """
    if RESTARTED not in os.environ:
        left = set() if allocator else {"GLIBC_TUNABLES"}
        given = {name: value for name, value in {**os.environ, **stages.QUIET}.items() if name not in left}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**given, RESTARTED: "1"})


def describe() -> dict[str, str | int | float]:
    """CPU, cores, memory, GPU, system, Python, torch, and how busy the machine is just now."""
    return {
        "cpu": _cpu(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": _system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Of the last minute. Much above 0 before a measurement: something else ran too, and the seconds are not to be trusted.
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit(folder: Path = RESULTS.parent) -> str:
    """The commit checked out in `folder`, and whether tracked files differ from it."""
    git = ["git", "-C", str(folder)]
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    at = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout
    return at.strip() + (" and changes" if changed.strip() else "")


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write `figures` as bench/results/<name>.json."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _cpu() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _system() -> str:
    # Not platform.platform(): a kernel's release can bear the name of whoever built it.
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = platform.system()
    return f"{name}, {platform.machine()}"


if __name__ == "__main__":
    print(json.dumps(describe()))
