"""transformers' Trainer as trees need it: losses over whole steps, checkpoints of just what is tuned, and guarded steps."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from stages.running.progress import progress
from stages.trees.tree import Tree
from stages.tuning import checkpoints
from stages.tuning.data import Ordered
from stages.tuning.guards import Guard
from stages.tuning.params import Tuning

LOG_EVERY_STEPS = 10


class TreeTrainer(Trainer):
    """transformers' Trainer, with the order left to the data, and checkpoints that hold just what is tuned, by name.

    The stock checkpoint is silently wrong here twice: a LLaVA is saved under the key names of old checkpoints but resumed
    by the model's own, and beside LoRA a part that is tuned in full is not saved at all. Both go on from first weights.
    """

    # compute_loss divides by the whole step; some families' classes would make the Trainer divide by its batches again.
    loss_is_scaled_for_ga = True

    def __init__(self, stage: str, params: Tuning, steps: Sequence[Sequence[Sequence[Tree]]], **kwargs: Any) -> None:
        """`steps`: for each step its batches, of all processes."""
        self.begun, self.a_step = 0, len(steps[0])
        self.guard = Guard(stage, params, steps)
        super().__init__(train_dataset=Ordered([batch for step in steps for batch in step]), **kwargs)
        self.guard.trainer = self
        self.remove_callback(PrinterCallback)
        for callback in (LogAtCheckpoints(), self.guard, GoOn(self), Shown(self.guard)):
            self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Tune, from a checkpoint or the first step.

        Raises:
            ValueError: a step could not be made, or a checkpoint not written.
        """
        self.begun = checkpoints.step_of(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else 0
        with self.guard.stops():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return From(self.begun * self.a_step, self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch forward and backward."""
        self.guard.begin()
        return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of the supervised tokens' losses over the whole step: all its batches, all processes."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs)
        losses = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="none")
        # Data-parallel training takes the mean of the processes' gradients; each has only its share of the step's sum.
        loss = (losses * weights).sum() / num_items_in_batch * self.accelerator.num_processes
        self.guard.see(loss, (losses * weights).sum() / weights.sum())
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        total = torch.stack([batch["weights"].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        # What the Trainer calls last before the optimizer's step.
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        self.guard.judge(norm)
        return norm

    @property
    def sharded(self) -> bool:
        """Whether no process has all of the weights, so that Accelerate must write and read the checkpoints' tensors."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def last_step(self) -> int | None:
        """Steps that are behind the newest checkpoint; None: there is none."""
        last = checkpoints.last_whole(Path(str(self.args.output_dir)))
        return None if last is None else checkpoints.step_of(last)

    def save_good_state(self, unlogged: torch.Tensor | None, alone: bool) -> None:
        """Checkpoint what is in memory, which is the state after the step that the Trainer stands at, unless there is one.

        Args:
            unlogged: The sum of the losses since the last log; None: the Trainer's own.
            alone: The other processes cannot take part.
        """
        self.guard.unlogged = unlogged
        due = self.state.global_step not in (0, self.last_step())
        if not alone:
            self.accelerator.wait_for_everyone()  # until all have looked whether there is one
        if due and not alone:
            self._save_checkpoint(self.model)
        elif due and not self.sharded:
            self._write()

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        work = Path(str(self.args.output_dir))
        if self.sharded:
            super()._save_checkpoint(model, trial)  # where _get_output_dir says, each process its share
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._write()
            checkpoints.keep_newest(work)
        # No process ends, and so ends the others, before the checkpoint is there.
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(str(self.args.output_dir)) / f"{checkpoints.WRITING}shards")

    def _write(self) -> None:
        """Write what this process has in memory as a checkpoint."""
        work, step = Path(str(self.args.output_dir)), self.state.global_step
        rest = {checkpoints.RUN: json.dumps({"losses": list(self.guard.losses), **self._unlogged()})}
        if self.sharded:
            folder = Path(self._get_output_dir(None)) / f"{checkpoints.PREFIX}{step}"
            for name, text in rest.items():
                (folder / name).write_text(text, encoding="utf-8")
            checkpoints.put_in_place(folder, work / folder.name)
            return
        # When to save is for the process that goes on to say (`GoOn`).
        state = dataclasses.asdict(self.state) | {"save_steps": None}
        rest[TRAINER_STATE_NAME] = json.dumps(state, indent=1, sort_keys=True)
        states = {name: one.state_dict() for name, one in self._stateful().items()}
        checkpoints.write(work, step, checkpoints.tuned_tensors(self.model), states, rest, self.args.process_index)

    def _unlogged(self) -> dict[str, Any]:
        """What was summed since the curve's last point."""
        if self.args.world_size == 1:
            total = self._tr_loss if self.guard.unlogged is None else self.guard.unlogged
            summed = float(total)
        else:  # this process knows of the others' sums what it heard at each step
            since = self.state.global_step - self._globalstep_last_logged
            summed = sum(list(self.guard.losses)[-since:]) if since else 0.0
        return {"unlogged": summed, "logged_at": self._globalstep_last_logged}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        tensors = load_file(Path(resume_from_checkpoint) / checkpoints.TUNED)
        mine = checkpoints.tuned_tensors(self.model if model is None else model)
        assert tensors.keys() == mine.keys(), "a checkpoint of another plan; its digest should have told"
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        states = checkpoints.read_optimizer(Path(checkpoint))
        for name, one in self._stateful().items():
            one.load_state_dict(states[name])

    def _stateful(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "schedule": self.lr_scheduler}

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: each batch draws its own (`checkpoints.seed_batch`)."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing, likewise."""


class From(Sampler[int]):
    """The places of all batches from one on, in order. Of the length of all of them, by which the Trainer counts steps."""

    def __init__(self, first: int, batches: Any) -> None:
        self.first, self.total = first, len(batches)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        return self.total


class GoOn(TrainerCallback):
    """Puts back what a Trainer leaves behind when it goes on at a checkpoint."""

    def __init__(self, trainer: TreeTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer before the first step."""
        state.compute_steps(args, state.max_steps)  # else checkpoint_steps would be what the killed run was told
        if state.global_step:
            folder = Path(str(args.output_dir)) / f"{checkpoints.PREFIX}{state.global_step}"
            known = json.loads((folder / checkpoints.RUN).read_text(encoding="utf-8"))
            self.trainer.guard.losses.extend(known["losses"])
            self.trainer._tr_loss += known["unlogged"]
            self.trainer._globalstep_last_logged = known["logged_at"]


class LogAtCheckpoints(TrainerCallback):
    """Has the loss logged wherever a checkpoint is due, and so at the last step too: the curve reaches to the end."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step, once it knows whether to save."""
        control.should_log |= control.should_save


class Shown(TrainerCallback):
    """Shows how far the run is: epoch, loss, supervised tokens a second, steps a second and time left."""

    def __init__(self, guard: Guard) -> None:
        """`guard` knows the steps and their losses."""
        self.guard = guard
        self.bar: Any = None
        self.tokens = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer before the first step."""
        if state.is_world_process_zero:
            # A run may take days, and its lines go to a file.
            self.bar = progress((), self.guard.stage, "step", total=state.max_steps, done=state.global_step, seldom=60)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step."""
        epochs = self.guard.params.epochs
        state.epoch = epochs * state.global_step / state.max_steps  # the Trainer takes the batches of all epochs for one
        if self.bar is not None:
            batches = self.guard.steps[state.global_step - 1]
            self.tokens += sum(sum(branch.supervised) for batch in batches for one in batch for branch in one.branches)
            rate = self.tokens / max(self.bar.format_dict["elapsed"], 1e-9)
            told = f"epoch {state.epoch:.2f} of {epochs:g}, loss {self.guard.losses[-1]:.3f}, {rate:,.0f} supervised tokens/s"
            self.bar.set_postfix_str(told, refresh=False)
            self.bar.update()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after the last step."""
        if self.bar is not None:
            self.bar.close()


def arguments(params: Tuning, work: Path, steps: int, batches: int, device: str, always_pictures: bool) -> TrainingArguments:
    """What the Trainer is told, of so many steps of so many batches each.

    `always_pictures`: every tree has one, so every step reaches every tuned parameter.
    """
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
        ignore_data_skip=True,  # the sampler begins where the run stands
        logging_steps=LOG_EVERY_STEPS,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would hide what the guard is to see, and wait for the GPU twice a batch
        disable_tqdm=True,
        report_to=["mlflow"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=not always_pictures,
        dataloader_num_workers=0,
    )
    # With several GPUs in sight and one process, the Trainer would lay each batch over all of them, as so many batches.
    given._n_gpu = min(1, given.n_gpu)
    return given
