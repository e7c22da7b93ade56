import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from stages.tuning.launch import launch, processes
from stages.tuning.params import Tuning

PROJECT = Path(__file__).parents[3]
STARTER = """
import json, sys
from pathlib import Path
from stages.tuning.launch import launch
from stages.tuning.params import Tuning
params, *paths = json.loads(sys.argv[1])
launch("train", Tuning.model_validate(params), *map(Path, paths))
"""


def paths(place: Path, base: Path, name: str) -> list[Path]:
    out = place / name
    out.mkdir()
    rendered = place / "rendered"
    return [rendered, rendered, place / "ingested", base, out / "model", out / "metrics.json", out / "curve.csv"]


def test_on_cpu_the_params_say_how_many_processes_and_on_gpus_there_is_one_for_each(tuning, monkeypatch):
    params = Tuning.model_validate({**tuning, "device": "auto", "processes": 2})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes(params) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(params) == 4


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_learn_what_one_does(place, tiny_model, tuning, optimizer):
    given = {**tuning, "precision": "fp32", "optimizer": optimizer}
    alone, together = paths(place, tiny_model, "alone"), paths(place, tiny_model, "together")

    launch("train", Tuning.model_validate(given), *alone)
    launch("train", Tuning.model_validate({**given, "processes": 2}), *together)

    one, two = (json.loads(found[-2].read_text()) for found in (alone, together))
    assert two["steps"] == one["steps"]
    assert two["loss_last"] == pytest.approx(one["loss_last"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_twice(place, tiny_model, tuning):
    params = Tuning.model_validate({**tuning, "processes": 2, "optimizer": "muon"})
    written = []
    for name in ("one", "two"):
        launch("train", params, *paths(place, tiny_model, name))
        written.append([path.read_bytes() for path in sorted((place / name).rglob("*")) if path.is_file()])
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_killed_stage_takes_all_its_processes_along(place, tiny_model, tuning):
    given = {**tuning, "processes": 2, "epochs": 5000.0}
    words = json.dumps([given, *map(str, paths(place, tiny_model, "killed"))])
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", STARTER, words], env=environment, start_new_session=True) as stage:
        end = time.monotonic() + 90
        while len(workers := _workers(stage.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        all_of_it = psutil.Process(stage.pid).children(recursive=True)
        stage.send_signal(signal.SIGKILL)
        stage.wait()

    assert len(workers) == 2
    _, alive = psutil.wait_procs(all_of_it, timeout=20)
    for left in alive:
        left.kill()
    assert not alive


def _workers(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "stages.tuning.launch" in child.cmdline() and "accelerate" not in str(child.cmdline())]
