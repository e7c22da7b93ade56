"""The default run, timed in this folder: `python bench/default_run.py`, best in a fresh clone after `make setup`.

Runs `make run`, then `dvc repro` once more, and writes bench/results/default_run.json: seconds per stage, scores of every
model, the gate's verdict, the ledger's counts. A stage that was up to date before is not timed.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine

RESULT = Path(__file__).parent / "results" / "default_run.json"
STARTS = re.compile(r"^Running stage '([^']+)':")
SHOWN = {
    "held_out": ("macro", "judgement", "choice", "short", "long_f1"),
    "mme": ("total",),
    "pope": ("f1", "yes_ratio"),
    "mmbench": ("accuracy", "single"),
    "llava_bench": ("relative",),
    "forgetting": ("accuracy",),
}


def main() -> None:
    """Time, read what came out, write."""
    total, stages = timed(["make", "run"])
    again, repeated = timed([sys.executable, "-m", "dvc", "repro"])
    figures = {
        "machine": machine.describe(),
        "command": "python bench/default_run.py",
        "seconds": {"make run": total, "second dvc repro": again, "stages": stages, "stages run again": list(repeated)},
        "scores": scores(read("data/evaluate/scores.json")),
        "verdict": verdict(read("data/register/verdict.json")),
        "ledger": ledger_counts(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written: {RESULT}")


def timed(command: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of the whole command, and of each stage DVC says it runs: from its announcement to the next one's, or the end."""
    began = time.perf_counter()
    marks: list[tuple[str, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := STARTS.match(line):
                marks.append((found[1], time.perf_counter()))
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}; nothing is written")
    ended = time.perf_counter()
    ends = [start for _, start in marks[1:]] + [ended]
    return round(ended - began, 1), {name: round(end - start, 1) for (name, start), end in zip(marks, ends, strict=True)}


def read(path: str) -> Any:
    """The JSON in a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def scores(found: dict[str, Any]) -> dict[str, Any]:
    """The headline figures of each model, those with an interval as [value, low, high]."""
    shown: dict[str, Any] = {}
    for model, benchmarks in found.items():
        shown[model] = {"digits+reading": benchmarks["held_out"]["tasks"]["digits+reading"]}
        for benchmark, names in SHOWN.items():
            for name in names:
                score = benchmarks[benchmark]
                value = [round(score[key], 4) for key in (name, f"{name}_low", f"{name}_high") if key in score]
                shown[model][f"{benchmark}.{name}"] = value if len(value) > 1 else value[0]
    return shown


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """The gate's conditions and whether the champion moved."""
    return {"promoted": found["promoted"], "conditions": found["conditions"]}


def ledger_counts() -> dict[str, dict[str, int]]:
    """Rows of each source by final state."""
    from stages.corpus import ledger

    data = Path("data")
    lines = ledger.join(ledger.read_parts(data / "ingest", data / "validate", data / "curate", data / "render"))
    counts: dict[str, dict[str, int]] = {}
    for line in lines:
        of_source = counts.setdefault(line.source, {})
        of_source[line.state] = of_source.get(line.state, 0) + 1
    return counts


if __name__ == "__main__":
    main()
