"""Tune a model on trees: load, freeze, order, train with checkpoints, merge, save. One loop for every stage that tunes."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
import transformers
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.corpus import shards
from stages.corpus.ledger import write
from stages.models.device import resolve_device
from stages.models.loading import load_model, load_processor
from stages.models.plan import apply_plan, trainable
from stages.running.command import WORK
from stages.running.tracking import use_tracking
from stages.trees import attention, tree
from stages.trees.batch import separate_rows
from stages.trees.families import positions_of, unfed, why_not_shared
from stages.trees.tree import Tree
from stages.tuning.data import Collator, Ordered, Pixels, order, packed, refuse_large
from stages.tuning.learnt import learnt
from stages.tuning.optimizer import muon_and_adamw
from stages.tuning.params import Tuning

LOG_EVERY_STEPS = 10
TUNED, WHOLE = "tuned.safetensors", "whole"
ROOMS = ("models", "trees", "tuning")
"""Whose code decides what a step does: a checkpoint of other code is not resumed."""


def tune(
    stage: str,
    params: Tuning,
    rendered: Path,
    former: Path,
    ingested: Path,
    base: Path,
    model: Path,
    metrics: Path,
    curve: Path,
    ledger: Path,
) -> None:
    """Tune the model in `base` on the trees below `rendered`; write the tuned model, its metrics, loss curve and ledger.

    `former` is what the stage before learnt from, of which `params.replay` is seen again; of the first stage, `rendered`.
    In several processes, each calls this; the first one writes. A run that was killed goes on at its last checkpoint.

    Raises:
        ValueError: this loop cannot tune a model of that family.
    """
    torch.set_num_threads(params.threads)
    transformers.set_seed(params.seed)
    own = tree.read_all(rendered)
    again = replayed(tree.read_all(former), params.replay, params.seed) if params.replay else []
    trees = own + again
    device = resolve_device(params.device)
    # On CPU, eager attention is 1.1 to 1.5 times faster than torch's fused one under bf16 at these lengths.
    stock = "eager" if device == "cpu" else "sdpa"
    loaded = load_model(base, attention=stock)
    if (missing := unfed(loaded)) is not None:
        raise ValueError(f"{stage} cannot tune {loaded.config.model_type} yet: {missing}")
    unfit = why_not_shared(loaded.config)
    reason = "share_prefix is never" if params.share_prefix == "never" else unfit
    if reason is not None:
        print(f"{stage}: branches are tuned as separate rows, because {reason}")
    if unfit is None:
        loaded.set_attn_implementation({"text_config": attention.NAME})
    refuse_idle(stage, params, trees)
    tuned = apply_plan(loaded, params.parts, params.lora)
    processor = load_processor(base)
    pixels = Pixels(ingested, trees, processor)
    collator = Collator(pixels, processor, unfit is None, params.weighting, positions_of(loaded))
    steps = order(trees, params.epochs, params.trees_per_step, params.seed)
    batches = batched(stage, params, [[one] if reason is None else separate_rows(one) for one in trees], steps)
    data = Ordered([batch for step in batches for batch in step])
    work = checkpoints(stage, params, [rendered, former], base)
    trainer = TreeTrainer(
        model=tuned,
        args=arguments(params, work, len(steps), len(batches[0]), device, all(one.images for one in trees)),
        train_dataset=data,
        data_collator=collator,
        callbacks=[LogAtCheckpoints(), MarkWhole()],
        optimizers=(muon_and_adamw(tuned, params) if params.optimizer == "muon" else None, None),
    )
    first = trainer.is_world_process_zero()
    if first:
        discard_others(work)
    with tracked(stage, params, work) if first else contextlib.nullcontext():
        trainer.train(resume_from_checkpoint=last_whole(work))
    if first:
        summary = summarise(trainer, trees, len(again), reason)
        save(trainer.accelerator.unwrap_model(tuned), processor, model, trainable(tuned))
        metrics.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        curve_of(trainer).to_csv(curve, index=False)
        write(ledger, learnt(stage, own, again, steps))
        discard(work)


def refuse_idle(stage: str, params: Tuning, trees: Sequence[Tree]) -> None:
    """Refuse trees from which nothing that is tuned could learn.

    Raises:
        ValueError: some have no picture, and the language model, all that reads them, is frozen.
    """
    bare = [one.branches[0] for one in trees if not one.images]
    if bare and params.parts.language_model == "frozen":
        raise ValueError(
            f"{len(bare)} conversations of {stage} have no picture (first: row {bare[0].row} of source {bare[0].source}), and "
            f"{stage}.parts.language_model is frozen, so nothing would learn from them; set it to full or lora, or take only "
            f"sources with pictures (curate.{stage}.sources) in params.yaml"
        )


class TreeTrainer(Trainer):
    """transformers' Trainer, with the order left to the data, and checkpoints that hold just what is tuned, by name.

    The stock checkpoint is silently wrong here twice: a LLaVA is saved under the key names of old checkpoints but resumed
    by the model's own, and beside LoRA a part that is tuned in full is not saved at all. Both go on from first weights.
    """

    # compute_loss divides by the whole step; some families' classes would make the Trainer divide by its batches again.
    loss_is_scaled_for_ga = True

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


def tuned_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that are tuned, by name, sharing the model's memory."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def batched(
    stage: str, params: Tuning, trees: Sequence[Sequence[Tree]], steps: Sequence[Sequence[int]]
) -> list[list[list[Tree]]]:
    """For each step its batches, of what stands for each tree: itself, or its branches apart.

    Raises:
        ValueError: one of them is larger than a batch may be.
    """
    units = [one for several in trees for one in several]
    refuse_large(stage, units, params.tokens_per_batch)
    ends = list(accumulate(map(len, trees)))
    laid = [[unit for index in step for unit in range(ends[index] - len(trees[index]), ends[index])] for step in steps]
    batches = packed(laid, [one.tokens for one in units], params.tokens_per_batch, params.processes)
    return [[[units[index] for index in batch] for batch in step] for step in batches]


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


def replayed(trees: Sequence[Tree], share: float, seed: int) -> list[Tree]:
    """`share` of `trees`, chosen by a seeded hash of their pictures: a smaller share is a part of a larger one."""
    chosen = []
    for one in trees:
        name = "|".join([str(seed), "replay", *one.images, *(f"{branch.source}#{branch.row}" for branch in one.branches[:1])])
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 2**56 < share:
            chosen.append(one)
    return chosen


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


def discard_others(work: Path) -> None:
    """Remove the checkpoints of the stage's other runs: their params, trees, model or code are not these."""
    for other in work.parent.iterdir():
        if other != work:
            discard(other)


@contextlib.contextmanager
def tracked(stage: str, params: Tuning, work: Path) -> Iterator[None]:
    """Within it, curves go live to an MLflow run: a new one, or the one that a killed run of the same digest began."""
    use_tracking()
    begun = work / "mlflow_run_id"
    known = begun.read_text() if begun.exists() and is_tracked(begun.read_text()) else None
    with mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=stage) as run:
        if not known:
            fresh = begun.with_suffix(".new")  # renamed when it is whole: half an id would be no run's
            fresh.write_text(run.info.run_id)
            fresh.replace(begun)
            mlflow.set_tag("stage", stage)
            mlflow.log_params({f"{stage}.{key}": value for key, value in params.model_dump().items()})
        yield


def is_tracked(run_id: str) -> bool:
    """Whether the store has that run; one begun before a kill may lie in another store, or in one since deleted."""
    try:
        run: Run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False
        raise
    return run.info.lifecycle_stage == "active"


def summarise(trainer: Trainer, trees: Sequence[Tree], replayed: int, reason: str | None) -> dict[str, Any]:
    """The stage's metrics: sizes, and the loss at both ends of the run. No clock: the same run gives the same bytes."""
    losses = curve_of(trainer)["loss"]
    model: Any = trainer.model
    return {
        "steps": trainer.state.global_step,
        "trees": len(trees),
        "trees_replayed": replayed,
        "examples": sum(len(one.branches) for one in trees),
        "tokens_an_epoch": sum(one.tokens for one in trees),
        "supervised_tokens_an_epoch": sum(sum(branch.supervised) for one in trees for branch in one.branches),
        "loss_first": round(float(losses.iloc[0]), 4),
        "loss_last": round(float(losses.tail(5).mean()), 4),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_tuned": sum(trainable(model).values()),
        "prefix_shared": reason is None,
        "prefix_not_shared_because": reason or "",
    }


def curve_of(trainer: Trainer) -> pd.DataFrame:
    """The logged steps: step, loss (weighted as `weighting` says), norm of the gradient, learning rate."""
    rows = [entry for entry in trainer.state.log_history if "loss" in entry]
    return pd.DataFrame(rows)[["step", "loss", "grad_norm", "learning_rate"]]


def save(tuned: Any, processor: Any, folder: Path, names: dict[str, int]) -> None:
    """Write the model with LoRA merged in, its processor, and the list of what was tuned, as one transformers folder."""
    plain: PreTrainedModel = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    plain.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "tuned_parameters.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
