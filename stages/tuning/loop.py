"""Tune a model on trees: load, freeze, order, train with checkpoints, merge, save. One loop for every stage that tunes."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from stages.corpus.ledger import write
from stages.models import attention as lean
from stages.models.device import resolve_device
from stages.models.loading import load_model, load_processor
from stages.models.plan import apply_plan, trainable
from stages.trees import attention, tree
from stages.trees.batch import separate_rows
from stages.trees.families import positions_of, unfed, why_not_shared
from stages.trees.tree import Tree
from stages.tuning.asked import compute_only_asked
from stages.tuning.checkpoints import MarkWhole, checkpoints, discard, discard_others, last_whole
from stages.tuning.data import Collator, Ordered, order, packed, refuse_large
from stages.tuning.learnt import learnt
from stages.tuning.optimizer import muon_and_adamw
from stages.tuning.params import Tuning
from stages.tuning.pixels import Pixels
from stages.tuning.record import curve_of, summarise, tracked
from stages.tuning.trainer import LogAtCheckpoints, TreeTrainer, arguments


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
        loaded.set_attn_implementation(
            {"text_config": attention.NAME} | ({"vision_config": lean.NAME} if device == "cpu" else {})
        )
    refuse_idle(stage, params, trees)
    tuned = apply_plan(loaded, params.parts, params.lora)
    compute_only_asked(tuned)
    processor = load_processor(base)
    pixels = Pixels(ingested, trees, processor)
    collator = Collator(pixels, processor, unfit is None, params.weighting, positions_of(loaded))
    sizes = [len(one.branches) if params.step_unit == "examples" else 1 for one in trees]
    steps = order(sizes, params.epochs, params.step_size, params.seed)
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


def replayed(trees: Sequence[Tree], share: float, seed: int) -> list[Tree]:
    """`share` of `trees`, chosen by a seeded hash of their pictures: a smaller share is a part of a larger one."""
    chosen = []
    for one in trees:
        name = "|".join([str(seed), "replay", *one.images, *(f"{branch.source}#{branch.row}" for branch in one.branches[:1])])
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 2**56 < share:
            chosen.append(one)
    return chosen


def batched(
    stage: str, params: Tuning, trees: Sequence[Sequence[Tree]], steps: Sequence[Sequence[int]]
) -> list[list[list[Tree]]]:
    """For each step its batches, of what stands for each tree: itself, or its branches apart.

    Raises:
        ValueError: one of them is larger than a batch may be, or a step has fewer than there are processes.
    """
    units = [one for several in trees for one in several]
    refuse_large(stage, units, params.tokens_per_batch)
    ends = list(accumulate(map(len, trees)))
    laid = [[unit for index in step for unit in range(ends[index] - len(trees[index]), ends[index])] for step in steps]
    if (fewest := min(map(len, laid))) < params.processes:
        raise ValueError(
            f"a step of {stage} has {fewest} trees for {stage}.processes {params.processes}: {stage}.step_size "
            f"{params.step_size} {params.step_unit} is too few; raise it, or lower processes, in params.yaml"
        )
    batches = packed(laid, [one.tokens for one in units], params.tokens_per_batch, params.processes)
    return [[[units[index] for index in batch] for batch in step] for step in batches]


def save(tuned: Any, processor: Any, folder: Path, names: dict[str, int]) -> None:
    """Write the model with LoRA merged in, its processor, and the list of what was tuned, as one transformers folder."""
    plain: PreTrainedModel = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    plain.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "tuned_parameters.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
