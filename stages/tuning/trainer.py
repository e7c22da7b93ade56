"""transformers' Trainer as trees need it: losses over whole steps, and checkpoints of just what is tuned."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from stages.tuning.accelerated import shared_out
from stages.tuning.checkpoints import TUNED, tuned_tensors
from stages.tuning.params import Tuning
from stages.tuning.several import gathered, gathered_state, spread, spread_state

LOG_EVERY_STEPS = 10
BATCHES_AHEAD = 2
"""Batches that each worker has ready beforehand; with those in its hands, what memory its pictures take."""


class TreeTrainer(Trainer):
    """transformers' Trainer, with the order left to the data, and checkpoints that hold just what is tuned, by name.

    The stock checkpoint is silently wrong here twice: a LLaVA is saved under the key names of old checkpoints but resumed
    by the model's own, and beside LoRA a part that is tuned in full is not saved at all. Both go on from first weights.
    """

    # compute_loss divides by the whole step; some families' classes would make the Trainer divide by its batches again.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        if self.is_fsdp_enabled:
            # A family's class names the layers of every tower it might have; those it has not would be searched for in vain.
            model: Any = self.model
            whole, mine = set(model._no_split_modules), {type(module).__name__ for module in model.modules()}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(whole & mine)

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of the supervised tokens' losses over the whole step: all its batches, all processes."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs)
        losses = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="none")
        # Data-parallel training takes the mean of the processes' gradients; each has only its share of the step's sum.
        loss = (losses * weights).sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        total = torch.stack([batch["weights"].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is tuned; each process must call it, and one writes.

        The stock one first gathers all of a model that is shared out, what is frozen too.
        """
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        tensors = gathered(self.model, self.args.should_save)  # type: ignore[arg-type]
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / TUNED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        mine = tuned_tensors(self.model if model is None else model)
        with safe_open(Path(resume_from_checkpoint) / TUNED, "pt") as tensors:
            assert set(tensors.keys()) == mine.keys(), "a checkpoint of another plan; its digest should have told"
            for name, tensor in mine.items():
                tensor.copy_(spread(tensors.get_tensor(name), tensor))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered_state(self.optimizer, self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)  # type: ignore[union-attr]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(spread_state(state, self.optimizer))  # type: ignore[union-attr]
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[union-attr]

    def whole_model(self, untuned: Callable[[], nn.Module]) -> nn.Module | None:
        """The tuned model, whole, in the process that writes it; each must call it.

        Args:
            untuned: Gives the model as it was before, with the plan carried out. Read again where this one's weights are
                shared out, rather than gathered: what is frozen has not changed.
        """
        if not shared_out():
            model: nn.Module = self.accelerator.unwrap_model(self.model)
            return model
        tensors = gathered(self.model, self.is_world_process_zero())  # type: ignore[arg-type]
        if not self.is_world_process_zero():
            return None
        whole = untuned()
        mine = tuned_tensors(whole)
        assert mine.keys() == tensors.keys(), "the same plan tunes other parameters than before"
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        return whole


class LogAtCheckpoints(TrainerCallback):
    """Has the loss logged wherever a checkpoint is written, and so at the last step too.

    What was summed since the last log is not in a checkpoint: a resumed run's curve would differ in its next point.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step, once it knows whether to save."""
        control.should_log |= control.should_save


def workers_of(params: Tuning) -> int:
    """How many workers each process has: as params say, but all processes of this machine no more than it has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(params.workers, max(1, cores // params.processes))


def arguments(params: Tuning, work: Path, steps: int, batches: int, device: str, always_pictures: bool) -> TrainingArguments:
    """What the Trainer is told, of so many steps of so many batches each.

    `always_pictures`: every tree has one, so every step reaches every tuned parameter.
    """
    seeing = {params.parts.vision_tower, params.parts.connector}
    given = TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=1,  # the data's items are batches
        gradient_accumulation_steps=batches // params.processes,
        learning_rate=params.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(params.warmup * steps),
        weight_decay=params.weight_decay,
        adam_beta2=params.beta2,
        bf16=params.precision == "bf16",
        use_cpu=device == "cpu",
        seed=params.seed,
        save_steps=params.checkpoint_steps,
        save_total_limit=2,
        logging_steps=LOG_EVERY_STEPS,
        logging_first_step=True,
        report_to=["mlflow"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=not always_pictures and seeing != {"frozen"},
        dataloader_num_workers=workers_of(params),
        dataloader_prefetch_factor=BATCHES_AHEAD if params.workers else None,
    )
    # With several GPUs in sight and one process, the Trainer would lay each batch over all of them, as so many batches.
    given._n_gpu = min(1, given.n_gpu)
    # Copies of this process, which share the trees and the caches with it; Python would start anew from 3.14 on.
    given.dataloader_multiprocessing_context = "fork" if params.workers else None
    return given
