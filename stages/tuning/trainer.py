"""transformers' Trainer as trees need it: losses over whole steps, and checkpoints of just what is tuned."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.models.plan import check_plan
from stages.tuning.checkpoints import TUNED, tuned_tensors
from stages.tuning.optimizer import optimizer_of
from stages.tuning.params import Tuning
from stages.tuning.precision import is_autocast

LOG_EVERY_STEPS = 10


class TreeTrainer(Trainer):
    """transformers' Trainer, with the order left to the data, and checkpoints that hold just what is tuned, by name.

    The stock checkpoint is silently wrong here twice: a LLaVA is saved under the key names of old checkpoints but resumed
    by the model's own, and beside LoRA a part that is tuned in full is not saved at all. Both go on from first weights.
    """

    # compute_loss divides by the whole step; some families' classes would make the Trainer divide by its batches again.
    loss_is_scaled_for_ga = True

    def __init__(self, params: Tuning, **given: Any) -> None:
        """`given`: as transformers' Trainer takes it."""
        self.params = params
        super().__init__(**given)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer over what is tuned; by now nothing may stand between the plan and that."""
        planned: Any = self.model if model is None else model
        check_plan(planned, self.params.parts, self.params.lora)
        if self.optimizer is None:
            self.optimizer = optimizer_of(planned, self.params)
        return self.optimizer

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

    def forget_optimizer(self) -> None:
        """Give back the memory of the optimizer's state and of the gradients: the run is over, and the proof wants room."""
        gradients: Any = self.model
        gradients.zero_grad()
        self.optimizer = self.lr_scheduler = None
        self.accelerator.free_memory()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tuned_tensors(self.model), folder / TUNED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        tensors = load_file(Path(resume_from_checkpoint) / TUNED)
        mine = tuned_tensors(self.model if model is None else model)
        assert tensors.keys() == mine.keys(), "a checkpoint of another plan; its digest should have told"
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])


class LogAtCheckpoints(TrainerCallback):
    """Has the loss logged wherever a checkpoint is written, and so at the last step too.

    What was summed since the last log is not in a checkpoint: a resumed run's curve would differ in its next point.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after each optimizer step, once it knows whether to save."""
        control.should_log |= control.should_save


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
        bf16=is_autocast(params),
        activation_checkpointing=params.checkpoint_activations,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=device == "cpu",
        seed=params.seed,
        save_steps=params.checkpoint_steps,
        save_total_limit=2,
        logging_steps=LOG_EVERY_STEPS,
        logging_first_step=True,
        report_to=["mlflow"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=not always_pictures,
        dataloader_num_workers=0,
    )
    # With several GPUs in sight and one process, the Trainer would lay each batch over all of them, as so many batches.
    given._n_gpu = min(1, given.n_gpu)
    return given
