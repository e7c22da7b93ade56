"""Some real steps of a stage, in its own processes and with its own threads, for their time and memory; nothing is kept.

All that they write lies in a folder that goes with them. A step's batches are given, so that the largest of the whole run are
among them.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import MLflowCallback
from transformers.trainer_utils import SaveStrategy

from stages.corpus import shards
from stages.models.device import resolve_device
from stages.models.plan import trainable
from stages.running.leash import follow_parent
from stages.trees import tree
from stages.trees.tree import Tree
from stages.tuning.launch import REFUSAL, REFUSED, environment, of_rank
from stages.tuning.params import Tuning

RESULT = "result-{}.json"
LOOK_EVERY_SECONDS = 0.1
MOST_OF_MEMORY = 0.95
"""Share of the machine's memory at which processes that measure are ended: a plan must not take the machine down."""


@dataclass(frozen=True)
class Rehearsed:
    """What some steps took, of the process that took most. Memory in bytes, on the GPU where it runs on one."""

    seconds: list[float]
    """Of each step but the first, from the end of the one before."""
    start_up: float
    """Seconds from the process's start to its first step."""
    itself: int
    """What the process holds before it has a model: its libraries; 0 on a GPU."""
    weights: int
    gradients: int
    optimizer: int
    peak: int
    """Most at once, all of these and activations included."""
    tuned: int
    """What a checkpoint holds of the model."""

    @property
    def activations(self) -> int:
        """What the peak is more than the rest."""
        return max(0, self.peak - self.itself - self.weights - self.gradients - self.optimizer)


def rehearse(
    stage: str, params: Tuning, steps: Sequence[Sequence[Sequence[Tree]]], ingested: Path, base: Path, memory: int
) -> Rehearsed:
    """Take `steps`, each a sequence of batches, from the model in `base`, on a machine with so many bytes of `memory`.

    Raises:
        ValueError: the stage refuses its trees or params, or they do not fit the memory.
        RuntimeError: a process ended badly; what it said stands above.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number, batch in enumerate(batch for step in steps for batch in step):
            tree.write(place / "batches" / shards.name(number), batch)
        paths = {"batches": place / "batches", "ingested": ingested.resolve(), "base": base.resolve()}
        job = {
            "stage": stage,
            # What is learnt again is among the batches; and how many steps there would be of them does not matter.
            "params": params.model_dump() | {"replay": 0.0, "epochs": 1.0},
            "a_step": len(steps[0]),
            **{name: str(path) for name, path in paths.items()},
        }
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        words = [sys.executable, "-u", "-m", "stages.tuning.rehearsal", str(place / "job.json")]
        started = [
            subprocess.Popen(words, env=_environment(params, rank), cwd=folder, stdout=subprocess.DEVNULL)
            for rank in range(params.processes)
        ]
        on_cpu = resolve_device(params.device) == "cpu"
        statuses, fits = _ended(started, int(memory * MOST_OF_MEMORY) if on_cpu else None)
        refusals = [path.read_text(encoding="utf-8") for path in sorted(place.glob(REFUSAL.format("*")))]
        if any(refusals):
            raise ValueError(next(filter(None, refusals)))
        if not fits or -signal.SIGKILL in statuses:
            raise ValueError(too_large(stage, params, memory))
        if any(statuses):
            raise RuntimeError(f"{stage} could not be measured: its processes ended with {statuses}; what they said is above")
        found = [json.loads((place / RESULT.format(rank)).read_text()) for rank in range(params.processes)]
    return Rehearsed(**max(found, key=lambda one: one["peak"]))


def too_large(stage: str, params: Tuning, memory: int) -> str:
    """What to say, and to change, where a step does not fit `memory` bytes."""
    ways = [f"lower {stage}.tokens_per_batch (now {params.tokens_per_batch})"]
    if not params.checkpoint_activations:
        ways.append(f"set {stage}.checkpoint_activations to true")
    if params.processes > 1 and resolve_device(params.device) == "cpu":
        ways.append(f"lower {stage}.processes (now {params.processes})")
    return f"a step of {stage} does not fit the {memory / 2**30:.1f} GiB of memory here: {', or '.join(ways)}, in params.yaml"


def _environment(params: Tuning, rank: int) -> dict[str, str]:
    """As the stage's own processes have it; one alone has no others to look for."""
    return environment(params) | (of_rank(params, rank) if params.processes > 1 else {})


def _ended(started: "Sequence[subprocess.Popen[bytes]]", most: int | None) -> tuple[list[int], bool]:
    """The exit statuses of all, and whether they stayed below `most` bytes together; where not, or one fails, all are ended."""
    fits = True
    while any(process.poll() is None for process in started):
        fits = fits and (most is None or sum(map(_resident, started)) < most)
        if not fits or any(process.poll() for process in started):
            for process in started:
                process.kill()
        time.sleep(LOOK_EVERY_SECONDS)
    return [process.returncode for process in started], fits


def _resident(process: "subprocess.Popen[bytes]") -> int:
    try:
        return psutil.Process(process.pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0


class Watch(TrainerCallback):
    """Notes when steps end."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.synchronise = synchronise
        self.began = 0.0
        self.ends: list[float] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer before the first step."""
        self.began = time.time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step."""
        self.synchronise()
        self.ends.append(time.perf_counter())


def main() -> None:
    """One process: do the job whose file is the only argument."""
    follow_parent()
    job_file = Path(sys.argv[1])
    job = json.loads(job_file.read_text(encoding="utf-8"))
    params = Tuning.model_validate(job["params"])
    rank, device = int(os.environ.get("RANK", "0")), resolve_device(params.device)
    if params.processes > 1:
        if device == "cuda":
            torch.cuda.set_device(rank)
        meeting = torch.distributed.FileStore(str(job_file.with_name("meeting")), params.processes)  # type: ignore[attr-defined]
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo", store=meeting, rank=rank, world_size=params.processes
        )
    try:
        measured = _measured(params, job, device)
    except torch.OutOfMemoryError:
        refusal = too_large(job["stage"], params, torch.cuda.get_device_properties(rank).total_memory)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("TANDEM_TRACEBACK"):
            raise
        refusal = str(error)
    else:
        job_file.with_name(RESULT.format(rank)).write_text(json.dumps(asdict(measured)), encoding="utf-8")
        if params.processes > 1:
            torch.distributed.destroy_process_group()
        return
    job_file.with_name(REFUSAL.format(rank)).write_text(refusal, encoding="utf-8")
    sys.exit(REFUSED)


def _measured(params: Tuning, job: dict[str, Any], device: str) -> Rehearsed:
    """Take the job's steps."""
    from stages.tuning.loop import prepare
    from stages.tuning.trainer import Shown

    itself = psutil.Process().memory_info().rss if device == "cpu" else 0
    folder = Path(job["batches"])
    ready = prepare(job["stage"], params, folder, folder, Path(job["ingested"]), Path(job["base"]))
    trainer = ready.trainer
    batches = [tree.read(path) for path in shards.of(folder)]
    a_step = job["a_step"]
    trainer.put([batches[first : first + a_step] for first in range(0, len(batches), a_step)])
    trainer.args.max_steps = len(batches) // a_step
    trainer.args.gradient_accumulation_steps = a_step // params.processes
    trainer.args.save_strategy = SaveStrategy.NO
    for unasked in (MLflowCallback, Shown):
        trainer.remove_callback(unasked)
    watch = Watch(torch.cuda.synchronize if device == "cuda" else lambda: None)
    trainer.add_callback(watch)
    trainer.train()
    model: Any = trainer.model
    tuned = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    assert trainable(model), "prepared without anything to tune"
    return Rehearsed(
        seconds=[after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)],
        start_up=watch.began - psutil.Process().create_time(),
        itself=itself,
        weights=sum(one.nbytes for one in [*model.parameters(), *model.buffers()]),
        gradients=tuned,
        optimizer=_state(trainer.optimizer),
        peak=_peak(device),
        tuned=tuned,
    )


def _state(optimizer: Any) -> int:
    """Bytes of an optimizer's state."""
    return sum(one.nbytes for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor))


def _peak(device: str) -> int:
    """Most bytes at once: of the GPU's tensors, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on every system, and read on CPU alone

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts KiB


if __name__ == "__main__":
    main()
