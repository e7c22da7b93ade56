"""`python -m stages.tuning plan`: what stages will do and take, told before anything runs; and a refusal of what cannot fit.

Sizes are counted on the trees that `render` wrote, laid into steps and batches as the stage will lay them. Time and memory are
measured on some real steps of it, the largest batches of the whole run among them (`rehearsal.py`). Nothing is written but in a
folder that goes again, and no run is tracked.
"""

import argparse
import ast
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from stages.models.device import resolve_device
from stages.models.plan import apply_plan, part_of
from stages.running.check import STAGES, params_of
from stages.running.command import WORK
from stages.running.profile import read_profile
from stages.running.section import section_of
from stages.trees import tree
from stages.trees.attention import layout
from stages.trees.batch import batch_trees, separate_rows
from stages.trees.families import unfed, why_not_shared
from stages.trees.tree import Tree
from stages.tuning.data import order
from stages.tuning.launch import divided
from stages.tuning.loop import batched, refuse_idle, replayed
from stages.tuning.optimizer import matrices
from stages.tuning.params import Tuning
from stages.tuning.rehearsal import Rehearsed, rehearse, too_large

TUNING = ("connect", "train", "align")
CHECKPOINTS = 3
"""Checkpoints that lie on the disk at once: two are kept, and the oldest goes when a new one is whole."""
LOOKED_AT = 64
"""Batches whose layout is made, to tell of the padding inside attention."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may have."""
GIB, MIB = 2**30, 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("stages", nargs="*", choices=[*TUNING, []], metavar="STAGE", help=f"{', '.join(TUNING)}; all")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="a params file or profile (params.yaml)")
    parser.add_argument("--graph", type=Path, default=Path("dvc.yaml"), help="the graph (dvc.yaml)")
    parser.add_argument("--steps", type=int, default=4, help="steps that are measured, beside the first (4)")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of each stage as soon as it is made; the exit status is 2 where one is refused."""
    try:
        if arguments.steps < 1:
            raise ValueError(f"--steps {arguments.steps}: give at least 1")
        expected = []
        for job in jobs(arguments.stages or TUNING, arguments.params, arguments.graph):
            made = plan(job, arguments.steps)
            print("\n".join(told(made)), end="\n\n", flush=True)
            expected.append(made.expected)
            made.refuse()
        if len(expected) > 1 and all(one is not None for one in expected):
            print(f"all of them: about {duration(sum(filter(None, expected)))}")
    except (ValueError, FileNotFoundError) as error:
        print(f"\nplan: {error}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True)
class Job:
    """A stage with its params, and where it reads."""

    stage: str
    params: Tuning
    rendered: Path
    former: Path
    ingested: Path
    base: Path
    """The model it will begin with."""
    there: Path
    """One of the same architecture and sizes that is there already: `base`, or what that one will be tuned from."""


def jobs(stages: Sequence[str], params: Path, graph: Path) -> list[Job]:
    """The jobs of `stages`, in the order they run.

    Raises:
        ValueError: params or graph are faulty, or what a stage reads is not there yet.
    """
    sections = read_profile(params)
    if not graph.is_file():
        raise ValueError(f"there is no {graph} here; run from the project's folder")
    steps = yaml.safe_load(graph.read_text(encoding="utf-8"))["stages"]
    kinds = {stage: section_of(params_of(STAGES / f"{stage}.py"), stage, sections, params) for stage in TUNING}
    places = {stage: words(stage, steps[stage]["cmd"]) for stage in TUNING}
    begins = {stage: places[stage][BEGUN[getattr(kinds[stage], "begin", None)]] for stage in TUNING}
    makers = {places[stage]["model"]: stage for stage in TUNING}
    found = []
    for stage in (name for name in TUNING if name in stages):
        tuning = Tuning.model_validate(kinds[stage].model_dump(include=set(Tuning.model_fields)))
        at, there = places[stage], begins[stage]
        while there in makers and not (there / "config.json").is_file():
            there = begins[makers[there]]
        former = at.get("former", at["rendered"])
        missing = [one for one in (at["rendered"], former, at["ingested"], there / "config.json") if not one.exists()]
        if missing:
            raise ValueError(
                f"a plan of {stage} reads {missing[0]}, which is not there yet; "
                "first run `dvc repro render`, which makes trees and base model"
            )
        found.append(Job(stage, divided(stage, tuning), at["rendered"], former, at["ingested"], begins[stage], there))
    return found


BEGUN: dict[str | None, str] = {None: "base", "train": "trained", "connect": "connected"}
"""What `begin` says of the model a stage begins with, and the argument that names it."""


def words(stage: str, command: str) -> dict[str, Path]:
    """The paths of a stage's `command` in dvc.yaml, by the names of its function's arguments."""
    body = ast.parse((STAGES / f"{stage}.py").read_text(encoding="utf-8")).body
    (function,) = (one for one in body if isinstance(one, ast.FunctionDef) and one.name == stage)
    _, *names = (argument.arg for argument in function.args.args)
    return dict(zip(names, map(Path, shlex.split(command)[3:]), strict=True))


@dataclass(frozen=True)
class Part:
    """What is tuned of one part of the model."""

    how: str
    parameters: int
    """Its own, without adapters."""
    tuned: int
    rate: str


@dataclass(frozen=True)
class Laid:
    """Trees as the stage will take them."""

    trees: list[Tree]
    replayed: int
    """How many of `trees` are of the stage before."""
    units: list[list[Tree]]
    """For each tree what stands for it: itself, or its branches apart."""
    batches: list[list[list[Tree]]]
    """For each step its batches."""
    reason: str | None
    """Why no prefix is shared."""
    flat: bool
    """Whether what is in a batch lies in one row."""

    @cached_property
    def tokens(self) -> list[int]:
        """Of each step."""
        return [sum(one.tokens for batch in step for one in batch) for step in self.batches]

    @cached_property
    def an_epoch(self) -> int:
        """Tokens that an epoch has."""
        return sum(one.tokens for several in self.units for one in several)

    @cached_property
    def supervised(self) -> int:
        """Supervised tokens that an epoch has."""
        return sum(sum(branch.supervised) for one in self.trees for branch in one.branches)

    def largest(self) -> list[int]:
        """The steps with the batch that has most tokens, most pictures, and most that attention looks at."""
        kinds = (
            lambda batch: sum(one.tokens for one in batch),
            lambda batch: sum(len(one.images) for one in batch),
            lambda batch: sum(one.tokens**2 for one in batch),
        )
        steps = range(len(self.batches))
        return list(dict.fromkeys(max(steps, key=lambda step: max(map(kind, self.batches[step]))) for kind in kinds))

    def padding(self) -> tuple[float, float]:
        """Shares, 0 to 1, of the cells that hold no token: of the batches, and of what attention looks at, of some of them."""
        every = [batch for step in self.batches for batch in step]
        some = every[:: max(1, len(every) // LOOKED_AT)]
        if not self.flat:
            cells = sum(len(batch) * max(one.tokens for one in batch) for batch in some)
            padded = 1 - sum(one.tokens for batch in some for one in batch) / cells
            return padded, padded
        real = [one for batch in some for name, one in layout(batch_trees(batch)).items() if name.endswith(".real")]
        return 0.0, 1 - sum(int(one.sum()) for one in real) / max(1, sum(one.numel() for one in real))


@dataclass(frozen=True)
class Plan:
    """What a stage will do, and take."""

    job: Job
    laid: Laid
    parts: dict[str, Part]
    rehearsed: Rehearsed | None
    """None where its processes are not started here."""
    measured: float
    """Tokens of the measured steps, in the mean."""
    memory: int
    """Bytes that there are: of this machine, or of a GPU."""
    disk: int
    """Bytes that are free where checkpoints and model go."""

    @property
    def expected(self) -> float | None:
        """Seconds that all steps will take: as many a token as those measured."""
        if self.rehearsed is None:
            return None
        a_step = sum(self.rehearsed.seconds) / len(self.rehearsed.seconds)
        return sum(self.laid.tokens) * a_step / self.measured

    @property
    def needs(self) -> int:
        """Bytes of memory at most, of all processes that share it."""
        assert self.rehearsed is not None
        return self.rehearsed.peak * (self.job.params.processes if resolve_device(self.job.params.device) == "cpu" else 1)

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint."""
        assert self.rehearsed is not None
        return self.rehearsed.tuned + self.rehearsed.optimizer

    @property
    def checkpoints(self) -> int:
        """How many lie on the disk at once."""
        return min(CHECKPOINTS, -(-len(self.laid.batches) // self.job.params.checkpoint_steps))

    @property
    def writes(self) -> int:
        """Bytes on the disk at most."""
        assert self.rehearsed is not None
        return self.checkpoints * self.checkpoint + self.rehearsed.weights

    def refuse(self) -> None:
        """Refuse what was measured if it does not fit.

        Raises:
            ValueError: memory or disk do not hold it.
        """
        if self.rehearsed is None:
            return
        stage, params = self.job.stage, self.job.params
        if self.needs > self.memory:
            raise ValueError(too_large(stage, params, self.memory))
        if self.writes > self.disk:
            raise ValueError(
                f"{stage} writes {size(self.writes)} of checkpoints and model to {WORK.absolute().parent}, where "
                f"{size(self.disk)} are free: make room, or tune less (LoRA for {stage}.parts) in params.yaml"
            )


def plan(job: Job, steps: int) -> Plan:
    """Make the plan of `job`, measured on so many `steps` beside the first.

    Raises:
        ValueError: the stage would refuse its model, trees or params, or they cannot fit this machine.
    """
    model = skeleton(job.there)
    if (missing := unfed(model)) is not None:
        raise ValueError(f"{job.stage} cannot tune {model.config.model_type} yet: {missing}")
    laid = lay(job, why_not_shared(model.config))
    tuned = apply_plan(model, job.params.parts, job.params.lora)
    memory = memory_of(job.params)
    refuse_heavy(job, tuned, memory)
    chosen = choose(laid, steps)
    took = None
    if job.params.accelerate is None:
        took = rehearse(job.stage, job.params, [laid.batches[step] for step in chosen], job.ingested, job.there, memory)
    measured = sum(laid.tokens[step] for step in chosen[1:]) / (len(chosen) - 1)
    return Plan(job, laid, parts_of(tuned, job.params), took, measured, memory, shutil.disk_usage(Path()).free)


def skeleton(folder: Path) -> PreTrainedModel:
    """The model in `folder` without its weights: what it is made of, in no memory."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def lay(job: Job, unfit: str | None) -> Laid:
    """The trees of `job` in the steps and batches that the stage will make of them.

    Raises:
        ValueError: the stage would refuse them.
    """
    params = job.params
    own = tree.read_all(job.rendered)
    if not own:
        raise ValueError(f"{job.stage} has no trees to learn from; see the ledger for why its rows ended elsewhere")
    again = replayed(tree.read_all(job.former), params.replay, params.seed) if params.replay else []
    trees = own + again
    refuse_idle(job.stage, params, trees)
    reason = "share_prefix is never" if params.share_prefix == "never" else unfit
    units = [[one] if reason is None else separate_rows(one) for one in trees]
    sizes = [len(one.branches) if params.step_unit == "examples" else 1 for one in trees]
    batches = batched(job.stage, params, units, order(sizes, params.epochs, params.step_size, params.seed))
    return Laid(trees, len(again), units, batches, reason, unfit is None)


def choose(laid: Laid, steps: int) -> list[int]:
    """Which steps are measured: one to warm up, those with the largest batches, and others spread over the run."""
    every = len(laid.batches)
    spread = [every * number // (steps + 1) for number in range(steps + 1)]
    largest = laid.largest()[:steps]
    return [spread[0], *largest, *spread[1 : 1 + steps - len(largest)]]


def memory_of(params: Tuning) -> int:
    """Bytes of memory: of a GPU, or of this machine, or of what a container may have of it."""
    if resolve_device(params.device) == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [Path(name).read_text().strip() for name in CGROUPS if Path(name).is_file()]
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdigit())])


def refuse_heavy(job: Job, model: Any, memory: int) -> None:
    """Refuse a model whose weights, gradients and optimizer alone do not fit, before any of it is loaded.

    Raises:
        ValueError: they need more than `memory` bytes.
    """
    stage, params = job.stage, job.params
    a_number = 2 if params.precision == "pure_bf16" else 4
    stepped = {id(one) for one in matrices(model)} if params.optimizer == "muon" else set[int]()
    tuned = [one for one in model.parameters() if one.requires_grad]
    # Muon remembers one number of each parameter that it steps, AdamW two.
    remembered = sum(one.numel() * (1 if id(one) in stepped else 2) for one in tuned)
    held = sum(one.numel() for one in model.parameters())
    if params.lora.quantize == "nf4":
        # Four bits, and an eighth for their scales (Dettmers et al. 2023), of the matrices that LoRA stands beside.
        beside = sum(one.numel() for name, one in model.named_parameters() if ".base_layer.weight" in name)
        held -= round(beside * (1 - (0.5 + 1 / 16) / a_number))
    needs = a_number * (held + sum(one.numel() for one in tuned) + remembered)
    on_cpu = resolve_device(params.device) == "cpu"
    if params.accelerate is not None:
        needs //= params.processes  # divided at best: FSDP and ZeRO-3 do so, DDP does not
    if on_cpu:
        needs *= params.processes
    if needs > memory:
        ways = [f"tune parts of {stage}.parts through LoRA, or freeze them"]
        if params.precision != "pure_bf16":
            ways.append(f"set {stage}.precision to pure_bf16")
        if params.processes > 1 and on_cpu:
            ways.append(f"lower {stage}.processes (now {params.processes})")
        if not on_cpu and params.accelerate is None:
            ways.append(f"divide it among GPUs ({stage}.accelerate)")
        raise ValueError(
            f"{stage} cannot fit: weights, gradients and the optimizer's state alone are {size(needs)}"
            f"{' in all processes' if on_cpu and params.processes > 1 else ''}, and there are {size(memory)} "
            f"{'of memory here' if on_cpu else 'on a GPU'}: {', or '.join(ways)}, in params.yaml"
        )


def parts_of(model: Any, params: Tuning) -> dict[str, Part]:
    """What is tuned of each part."""
    stepped = {id(one) for one in matrices(model)} if params.optimizer == "muon" else set[int]()
    own, tuned, by_muon = ({part: 0 for part in params.parts.model_dump()} for _ in range(3))
    for name, one in model.named_parameters():
        part = part_of(name.removeprefix("base_model.model.").replace(".base_layer", ""))
        own[part] += 0 if "lora_" in name else one.numel()
        tuned[part] += one.numel() if one.requires_grad else 0
        by_muon[part] += one.numel() if id(one) in stepped else 0
    made = {}
    for part, how in params.parts.model_dump().items():
        rate = getattr(params.learning_rates, part) or params.learning_rate
        muon = params.muon_learning_rate * rate / params.learning_rate
        rates = f"{rate:g}" + (f", Muon's {muon:g}" if by_muon[part] else "")
        made[part] = Part(how, own[part], tuned[part], rates if tuned[part] else "-")
    return made


def told(made: Plan) -> Iterator[str]:
    """The plan for people to read, a line each."""
    job, laid, params = made.job, made.laid, made.job.params
    among = f"{laid.replayed:,} of them of the stage before, " if laid.replayed else ""
    examples = sum(len(one.branches) for one in laid.trees)
    yield f"{job.stage}: {len(laid.trees):,} trees, {among}{examples:,} examples of {job.rendered}, on the model {job.base}"
    if job.there != job.base:
        yield f"  {job.base} is not there yet: measured on {job.there}, which it will be tuned from, of the same sizes"
    yield f"  {'part':<16}{'how':<8}{'parameters':>16}{'tuned':>16}  learning rate"
    for part, one in made.parts.items():
        yield f"  {part:<16}{one.how:<8}{one.parameters:>16,}{one.tuned:>16,}  {one.rate}"
    a_step = len(laid.batches[0])
    several = f" over {params.processes} processes" if params.processes > 1 else ""
    yield _line("steps", f"{len(laid.batches):,} of {params.step_size} {params.step_unit}, in {params.epochs:g} epochs")
    fullest = max(sum(one.tokens for one in batch) for step in laid.batches for batch in step)
    yield _line("batches", f"{a_step} a step{several}, of at most {fullest:,} tokens (allowed: {params.tokens_per_batch:,})")
    yield _line("tokens", f"{laid.an_epoch:,} an epoch, {sum(laid.tokens):,} in all")
    yield _line("supervised", f"{laid.supervised:,} tokens an epoch, {laid.supervised / laid.an_epoch:.1%} of what is read")
    in_batches, in_attention = laid.padding()
    yield _line("padding", f"{in_batches:.1%} of the batches, {in_attention:.1%} of what attention looks at")
    if laid.reason is not None:
        yield _line("prefixes", f"not shared, because {laid.reason}")
    if made.rehearsed is None:
        yield _line("measured", f"nothing: its processes are started by accelerate (profiles/accelerate, {params.accelerate})")
        return
    took = made.rehearsed
    where = "this machine" if resolve_device(params.device) == "cpu" else torch.cuda.get_device_name()
    kinds = {
        "weights": took.weights,
        "gradients": took.gradients,
        "optimizer": took.optimizer,
        "activations": took.activations,
        "libraries": took.itself,
    }
    yield _line(
        "memory", f"{size(made.needs)} of {size(made.memory)}{f', {size(took.peak)} in each process' if several else ''}"
    )
    yield _line("", ", ".join(f"{name} {size(value)}" for name, value in kinds.items() if value))
    yield _line(
        "disk",
        f"{size(made.writes)} of {size(made.disk)} free: {made.checkpoints} checkpoints of {size(made.checkpoint)} at once, "
        f"the model {size(took.weights)}",
    )
    assert made.expected is not None
    a_second = made.measured * len(took.seconds) / sum(took.seconds)
    yield _line(
        "time",
        f"about {duration(made.expected)} on {where}, and {duration(took.start_up)} until the first step: "
        f"{min(took.seconds):.3g} to {max(took.seconds):.3g} s a step in {len(took.seconds)} measured, "
        f"{a_second:,.0f} tokens a second",
    )


def _line(name: str, text: str) -> str:
    return f"  {name:<16}{text}"


def size(count: int) -> str:
    """So many bytes."""
    unit, name = (GIB, "GiB") if count >= GIB else (MIB, "MiB") if count >= MIB else (1, "B")
    return f"{count / unit:,.{1 if unit > 1 else 0}f} {name}"


def duration(seconds: float) -> str:
    """So many seconds."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
