import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from stages.tuning.launch import ended, launch, processes
from stages.tuning.params import Tuning

PROJECT = Path(__file__).parents[3]
STARTER = """
import json, sys
from pathlib import Path
from stages.tuning.launch import launch
from stages.tuning.params import Tuning
params, *files = json.loads(sys.argv[1])
launch("train", Tuning.model_validate(params), *map(Path, files))
"""


def paths(place: Path, base: Path, name: str) -> list[Path]:
    out = place / name
    out.mkdir()
    rendered = place / "rendered"
    return [rendered, rendered, place / "ingested", base, out / "model", out / "metrics.json", out / "curve.csv"]


def test_there_are_as_many_processes_as_asked_for_but_on_gpus_one_for_each_at_most(tuning, monkeypatch):
    params = Tuning.model_validate({**tuning, "device": "auto", "processes": 2})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes(params) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus, expected in ((1, 1), (4, 2)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert processes(params) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trees_per_batch": 3}, r"trees_per_step 4 must be a multiple of trees_per_batch x processes \(3 x 2\)"),
        ({"parts": dict.fromkeys(("vision_tower", "connector", "language_model"), "frozen")}, "every part is frozen"),
    ],
)
def test_what_cannot_work_is_said_before_any_process_is_started(place, tiny_model, tuning, monkeypatch, change, said):
    monkeypatch.setattr(subprocess, "Popen", None)
    params = Tuning.model_validate({**tuning, "processes": 2, **change})
    with pytest.raises(ValueError, match=said):
        launch("train", params, *paths(place, tiny_model, "out"))


@pytest.mark.slow
def test_processes_talk_over_loopback_only(place, tiny_model, tuning):
    with begun(place, tiny_model, {**tuning, "processes": 2, "epochs": 5000.0}) as workers:
        time.sleep(8)  # until they have met
        addresses = {
            connection.laddr.ip
            for worker in workers
            for connection in worker.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert addresses <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_one_process_that_dies_ends_the_others_and_the_stage(place, tiny_model, tuning):
    started = [
        subprocess.Popen([sys.executable, "-c", code]) for code in ("import time; time.sleep(60)", "raise SystemExit(3)")
    ]
    assert ended(started) == [-signal.SIGKILL, 3]


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
    with begun(place, tiny_model, {**tuning, "processes": 2, "epochs": 5000.0}) as workers:
        pass  # leaving kills the stage

    end = time.monotonic() + 30
    while (alive := [one for one in workers if _works(one)]) and time.monotonic() < end:
        time.sleep(0.2)
    for left in alive:
        left.kill()
    assert not alive


def _works(process: psutil.Process) -> bool:
    # An adopter that does not look after its charges leaves them as zombies, which do nothing any more.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@contextlib.contextmanager
def begun(place: Path, base: Path, given: dict[str, Any]) -> Iterator[list[psutil.Process]]:
    """A stage of two processes in a process of its own, once both are there; it is killed at the end."""
    words = json.dumps([given, *map(str, paths(place, base, "begun"))])
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", STARTER, words], env=environment, start_new_session=True) as stage:
        end = time.monotonic() + 90
        while len(workers := psutil.Process(stage.pid).children(recursive=True)) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        try:
            assert len(workers) == 2
            yield workers
        finally:
            stage.send_signal(signal.SIGKILL)
            stage.wait()
