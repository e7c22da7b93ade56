"""The flow `pipeline`: one task per stage of dvc.yaml, each as soon as what it needs is done.

DVC alone knows what is stale, so nothing is cached here; every task asks DVC, and says in the UI what DVC answered.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import leave_artifacts
from flows.graph import Stage, awaited, read_stages, upto
from flows.reasons import last_params, params, reasons
from flows.repro import settle_lock
from stages.running.command import WORK
from stages.running.leash import alone, follow_parent

GPU = "gpu"
"""Tag of the tasks that want a GPU; `make ui` limits how many tasks with it run at once, whichever flow they are of."""

AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
"""Stages of one run that work at the same time: a stage computes with two threads."""


HINTS = ("To track the changes with git", "\tgit add ", "To enable auto staging", "\tdvc config ", "Use `dvc push`")
"""How DVC's advice to a person at a shell begins; in a run's log it would be most of the lines."""


class StageFailed(RuntimeError):
    """A stage ended badly; trying again may help."""


class StageRefused(StageFailed):
    """A stage found a mistake in its params or input (exit status 2); trying again cannot help."""


# More threads than stages: most of them wait for other stages, and only `AT_ONCE` of them work.
THREADS: Any = ThreadPoolTaskRunner(max_workers=64)


@flow(name="pipeline", task_runner=THREADS, log_prints=True, persist_result=False)
def pipeline(stages: list[str] | None = None) -> None:
    """Bring stages and all they need up to date, as `dvc repro` does.

    Args:
        stages: names of stages in dvc.yaml; `ingest` stands for all of its kind, nothing for all stages.
    """
    if runtime.deployment.id is not None:
        follow_parent()  # a killed worker must not leave a run behind that nobody can stop
    root = Path.cwd()
    with alone("pipeline", root / WORK):
        _check(root)
        graph = read_stages(root)
        wanted = upto(graph, stages)
        slots = Slots(threading.BoundedSemaphore(AT_ONCE), threading.BoundedSemaphore(_gpu_limit()))
        runs: dict[str, PrefectFuture] = {}
        with _no_child_left():
            for stage in wanted:
                needed = [runs[name] for name in awaited(stage, graph)]
                runs[stage.name] = _task(stage).submit(stage, root, slots, wait_for=needed)
            wait(list(runs.values()))
        settle_lock(root, [stage.name for stage in graph])
        leave_artifacts(root)
    _raise_first_failure(runs)


@dataclass(frozen=True)
class Slots:
    """How many stages of this run may work at once."""

    cores: threading.BoundedSemaphore
    gpus: threading.BoundedSemaphore
    """Beside Prefect's limit, which holds between runs: a run without `make ui` has a server of its own, without limits."""


@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(stage: Stage, root: Path, slots: Slots) -> State[None]:
    """Ask DVC to bring one stage up to date, and end in a state that says what it answered."""
    logger = get_run_logger()
    answer = Answer(stage.name, last_params(root, stage.name), params(root))
    with slots.gpus if stage.gpu else nullcontext(), slots.cores, _dvc(stage.name, root) as child:
        assert child.stdout is not None
        for line in child.stdout:
            answer.hear(line.rstrip())
            if answer.spoken:
                logger.info(answer.spoken)
    return answer.state(child.returncode)


class Answer:
    """What DVC says about one stage, line by line."""

    def __init__(self, stage: str, params_before: dict[str, Any], params_now: dict[str, Any]) -> None:
        self.stage = stage
        self.params = params_before, params_now
        self.spoken = ""
        self.why: str | None = None
        self.restored = False
        self.refused = False
        self.last = ""

    def hear(self, line: str) -> None:
        """Take in one line; `spoken` is what of it a person should read."""
        self.spoken = line
        if self.why is None and line.startswith("{"):
            self.why = reasons(json.loads(line), *self.params)
            self.spoken = f"runs, because {self.why}" if self.why else "nothing it reads has changed"
        elif line.startswith(HINTS):
            self.spoken = ""
        elif line.endswith("is cached - skipping run, checking out outputs"):
            self.restored = True
        elif line.endswith("exited with 2"):
            self.refused = True
        self.last = self.spoken or self.last

    def state(self, status: int) -> State[None]:
        """The task's final state.

        Raises:
            StageFailed: DVC or the stage ended badly.
        """
        if status:
            kind = StageRefused if self.refused else StageFailed
            raise kind(f"stage {self.stage}: dvc ended with status {status}: {self.last}")
        if not self.why:
            return Completed(name="Up to date", message="nothing it reads has changed")
        if self.restored:
            return Completed(name="Restored", message=f"DVC had this very run in its cache; asked for because {self.why}")
        return Completed(message=f"ran, because {self.why}")


def _gpu_limit() -> int:
    """How many tasks Prefect's server lets use a GPU at once; one where it was never told."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(f"tag:{GPU}").limit
    except ObjectNotFound:
        return 1


def _task(stage: Stage) -> Any:
    return reproduce.with_options(
        name=stage.name,
        task_run_name=stage.name,
        tags=[GPU] if stage.gpu else [],
        retries=stage.retries,
        retry_condition_fn=lambda task, run, state: not isinstance(state.result(raise_on_failure=False), StageRefused),
    )


@contextmanager
def _dvc(stage: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "flows.repro", stage],
        cwd=root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        _children.add(child)
        try:
            yield child
        finally:
            child.wait()
            _children.discard(child)


_children: set[subprocess.Popen[str]] = set()


@contextmanager
def _no_child_left() -> Iterator[None]:
    """When the flow is cancelled, end what its tasks wait for; each child's own leash ends what the child started."""
    try:
        yield
    finally:
        for child in list(_children):
            child.terminate()


def environment() -> dict[str, str]:
    """This process's environment, with `python` being the one that runs now, and its output unbuffered."""
    beside = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")]), "PYTHONUNBUFFERED": "1"}


def _check(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.running.check"],
        cwd=root,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(done.stdout.strip())
    if done.returncode:
        raise StageRefused(done.stdout.strip())


def _raise_first_failure(runs: dict[str, PrefectFuture]) -> None:
    failed = [name for name, run in runs.items() if not run.state.is_completed()]
    if failed:
        why = "; ".join(str(runs[n].state.message) for n in failed if runs[n].state.is_failed())
        raise StageFailed(f"{', '.join(failed)} did not complete: {why}")


if __name__ == "__main__":
    pipeline(sys.argv[1:] or None)
