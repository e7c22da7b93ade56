"""Both doors, around a toy project: the same lock, the same bytes, and words that say why."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# One process and so one temporary server for all runs of a test: that takes longer to start than the runs.
DRIVER = """
import json, sys
from pathlib import Path
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from flows.pipeline import pipeline

params, text = Path("params.yaml"), Path("params.yaml").read_text()
for change, stages in json.loads(sys.argv[1]):
    print("=====", flush=True)
    params.write_text(text.replace(*change))
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        state = pipeline(stages, return_state=True)
    print(f"the flow is {state.name}: {state.message}", flush=True)
params.write_text(text)
"""


def drive(toy, *runs):
    """What each run of the flow printed; a run is (an edit of params.yaml for it, the stages asked for)."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(runs)],
        cwd=toy.root,
        env=toy.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.split("=====\n")[1:]


NO_CHANGE = ("rate: 3", "rate: 3")


def test_both_doors_leave_the_same_lock_and_the_same_bytes(make_toy):
    shell, prefect = make_toy("shell"), make_toy("prefect")

    shell.run("dvc", "repro")
    first, second = drive(prefect, (NO_CHANGE, None), (NO_CHANGE, None))

    assert prefect.files() == shell.files()
    assert "runs, because it has not run before" in first
    assert "up to date" in shell.run("dvc", "repro")
    assert "up to date" in prefect.run("dvc", "status")
    assert second.count("Finished in state Up to date") == 5
    assert "Running stage" not in second


def test_what_a_run_does_with_a_change_a_failure_and_a_mistake(toy):
    (toy.root / "fail-once").touch()
    luck, mistake, back, misspelt, fewer = drive(
        toy,
        (NO_CHANGE, None),
        (("rate: 3", "rate: -3"), None),
        (NO_CHANGE, None),
        (("rate: 3", "rte: 3"), None),
        (("rows: 6", "rows: 7"), ["ingest@cats"]),
    )

    assert "out of luck" in luck
    assert luck.count("Running stage 'train'") == 2
    assert "the flow is Completed" in luck

    assert mistake.count("Running stage 'train'") == 1, "a user's mistake is not tried again"
    assert "train.rate must be 0 or more, got -3" in mistake
    assert "the flow is Failed" in mistake
    assert "Running stage 'evaluate'" not in mistake

    assert "Finished in state Restored" in back, "DVC had the run of before in its cache"
    assert "Running stage" not in back

    assert "train.rte is no known key" in misspelt
    assert "the flow is Failed" in misspelt
    assert "Running stage" not in misspelt

    assert "Running stage 'ingest@cats'" in fewer
    assert "ingest@dogs" not in fewer
    assert "params sample.rows 6 → 7" in fewer
