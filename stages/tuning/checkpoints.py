"""Checkpoints: where a run keeps them, which are whole, and when they go.

A folder is named by the digest of all that the run's result depends on, so none is ever resumed by another run.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.corpus import shards
from stages.running.command import WORK
from stages.tuning.params import Tuning

TUNED, WHOLE = "tuned.safetensors", "whole"
ROOMS = ("models", "trees", "tuning")
"""Whose code decides what a step does: a checkpoint of other code is not resumed."""


def checkpoints(stage: str, params: Tuning, rendered: Sequence[Path], base: Path) -> Path:
    """Where this very run keeps its checkpoints: a folder named by the digest of all that its result depends on."""
    digest = hashlib.sha256(params.model_dump_json().encode())
    trees = [shard for folder in rendered for shard in shards.of(folder)]
    code = sorted(path for room in ROOMS for path in (Path(__file__).parents[1] / room).glob("*.py"))
    for path in [*trees, *sorted(path for path in base.iterdir() if path.is_file()), *code]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    digest.update(f"{torch.__version__} {transformers.__version__}".encode())
    mine = WORK / stage / digest.hexdigest()[:16]
    mine.mkdir(parents=True, exist_ok=True)
    return mine


class MarkWhole(TrainerCallback):
    """Marks a checkpoint once all of it is written: what a kill left half done is never resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer in each process when its part of this step's checkpoint is written."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def last_whole(work: Path) -> str | None:
    """The newest checkpoint in `work` that was written to its end, if there is one."""
    whole = [path.parent for path in work.glob(f"checkpoint-*/{WHOLE}")]
    return str(max(whole, key=lambda folder: int(folder.name.split("-")[1]))) if whole else None


def discard(work: Path) -> None:
    """Remove checkpoints: first the marks, so that a kill in the middle leaves none that looks whole and is not."""
    for mark in work.glob(f"checkpoint-*/{WHOLE}"):
        mark.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def discard_others(work: Path) -> None:
    """Remove the checkpoints of the stage's other runs: their params, trees, model or code are not these."""
    for other in work.parent.iterdir():
        if other != work:
            discard(other)


def tuned_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that are tuned, by name, sharing the model's memory."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
