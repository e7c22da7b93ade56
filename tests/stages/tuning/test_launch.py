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

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from stages.trees import tree
from stages.tuning.launch import divided, ended, launch
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
    written = [out / name for name in ("model", "metrics.json", "curve.csv", "ledger.parquet")]
    return [rendered, rendered, place / "ingested", base, *written]


def test_there_are_as_many_processes_as_asked_for_but_on_gpus_one_for_each_at_most(tuning, monkeypatch):
    params = Tuning.model_validate({**tuning, "device": "auto", "processes": 4, "step_size": 16})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert divided("train", params).processes == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus, expected in ((1, 1), (2, 2), (8, 4)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert divided("train", params).processes == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ValueError, match=r"train\.processes is 4, but there are 3 GPUs, and train\.step_size 16 is no"):
        divided("train", params)


def test_without_a_tree_to_learn_from_nothing_is_started(place, tiny_model, tuning, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    tree.write(place / "rendered" / "00000.parquet", [])
    with pytest.raises(ValueError, match=r"train has no trees to learn from; see the ledger"):
        launch("train", Tuning.model_validate({**tuning, "processes": 2}), *paths(place, tiny_model, "out"))


@pytest.mark.slow
def test_what_a_process_refuses_is_told_in_its_own_words(place, tiny_model, tuning):
    parts = {"vision_tower": "frozen", "connector": "frozen", "language_model": "lora"}
    params = Tuning.model_validate({**tuning, "processes": 2, "optimizer": "muon", "parts": parts})
    with pytest.raises(ValueError, match=r"leaves none; set optimizer: adamw in params.yaml"):
        launch("train", params, *paths(place, tiny_model, "out"))


@pytest.mark.slow
def test_processes_talk_over_loopback_only(place, tiny_model, tuning):
    with begun(place, tiny_model, {**tuning, "processes": 2, "epochs": 5000.0}) as workers:
        end = time.monotonic() + 60
        while not all(found := [addresses(worker) for worker in workers]) and time.monotonic() < end:
            time.sleep(0.2)
        assert all(found), "they never met"
        time.sleep(3)  # whatever else they open, they open at the start
        found = [addresses(worker) for worker in workers]
    assert set().union(*found) <= {"127.0.0.1", "::1"}


def addresses(process: psutil.Process) -> set[str]:
    """This side's addresses of all that it listens on or is connected by."""
    return {connection.laddr.ip for connection in process.net_connections("inet") if connection.laddr}


@pytest.mark.slow
def test_one_process_that_dies_ends_the_others_and_the_stage(place, tiny_model, tuning):
    started = [
        subprocess.Popen([sys.executable, "-c", code]) for code in ("import time; time.sleep(60)", "raise SystemExit(3)")
    ]
    assert ended(started) == [-signal.SIGKILL, 3]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_learn_what_one_does(place, tiny_model, tuning, optimizer):
    # A small rate: Adam divides by what it remembers, so that the last bits of a sum grow step by step.
    given = {**tuning, "precision": "fp32", "optimizer": optimizer}
    given |= {"learning_rate": 0.0001, "muon_learning_rate": 0.0001}
    alone, together = paths(place, tiny_model, "alone"), paths(place, tiny_model, "together")

    launch("train", Tuning.model_validate(given), *alone)
    launch("train", Tuning.model_validate({**given, "processes": 2}), *together)

    one, two = (json.loads(found[5].read_text()) for found in (alone, together))
    assert two["steps"] == one["steps"] == 6
    assert two["loss_last"] == pytest.approx(one["loss_last"], rel=1e-3)
    # Adam and Muon forget how large a gradient is, so the weights alone would not tell a wrong scale.
    norms = [pd.read_csv(found[6])["grad_norm"].tolist() for found in (alone, together)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    mine, theirs = (load_file(found[4] / "model.safetensors") for found in (alone, together))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)


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
