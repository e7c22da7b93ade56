"""How the models stand: each benchmark's measure per model with its interval, and each task's accuracy."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from stages.corpus.example import RIGHT_OR_WRONG
from stages.pages.drawing import nice_span, ticks
from stages.pages.wording import GAP, number, percent, signed, title

CHAIN = ("base", "connect", "train", "align")
"""Models that page.css has a colour for."""
TONES = ("fifth", "sixth", "accent", "ink")
"""Colours of models that are not of the chain."""
HELD_OUT = "held_out"
LOW, HIGH = "_low", "_high"
CHANCE = 0.05
"""A gain that chance alone would give more often is not coloured."""
"""`<metric>_low` and `<metric>_high` stand beside a metric: the ends of its 95 % interval."""
MEASURES = (
    # benchmark, its metrics (the first that is there is shown), name, what it is
    ("held_out", ("macro", "accuracy"), "Held-out tasks", "right answers in percent, each task counted alike"),
    ("mme", ("total",), "MME", "100 · (questions right + pictures wholly right), summed over its tasks"),
    ("pope", ("f1", "accuracy"), "POPE", "is it there? F1 in percent, mean of three ways to ask"),
    ("mmbench", ("overall", "accuracy"), "MMBench", "questions right in every order of their options, in percent"),
    (
        "llava_bench",
        ("relative", "overall"),
        "LLaVA-Bench",
        "open questions: what the judge gives, in percent of what it gives the reference answers",
    ),
    ("forgetting", ("average", "accuracy"), "Forgetting", "plain pictures named right, in percent: what must not get lost"),
)


@dataclass(frozen=True, slots=True)
class Value:
    """A metric of one model; `low` and `high` end its 95 % interval and are None where there is none."""

    model: str
    value: float
    low: float | None
    high: float | None
    gain: float | None = None
    """How much it lies above the model before; None for the first, or where it was not said."""
    sure: bool = False
    """Whether a gain like it comes by chance in less than `CHANCE` of all runs, all benchmarks taken together."""
    detectable: float | None = None
    """The smallest gain that would be found with a power of 80 %."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric over all models."""

    benchmark: str
    metric: str
    name: str
    about: str
    values: tuple[Value, ...]

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, and is told in percent."""
        return all(0 <= edge <= 1 for value in self.values for edge in (value.value, value.low, value.high) if edge is not None)

    @property
    def span(self) -> tuple[float, float]:
        """The axis that holds all values and their intervals."""
        if self.is_share:
            return 0.0, 1.0
        edges = [edge for value in self.values for edge in (value.value, value.low, value.high) if edge is not None]
        return nice_span(edges)

    @property
    def marks(self) -> list[float]:
        """Where the axis is marked."""
        return ticks(*self.span, 4)

    def tell(self, value: float | None) -> str:
        """A value in this measure's unit."""
        return percent(value) if self.is_share else number(value, 1)

    def interval(self, value: Value) -> str:
        """The interval of `value` in words; empty where there is none."""
        if value.low is None or value.high is None:
            return ""
        scale, digits = (100, 1) if self.is_share else (1, 1)
        return (
            f"{number(scale * value.low, digits)} to {number(scale * value.high, digits)}{GAP + '%' if self.is_share else ''}"
        )

    def gain(self, value: Value) -> str:
        """The gain of `value` in words; empty where there is none."""
        if value.gain is None:
            return ""
        return signed(100 * value.gain if self.is_share else value.gain, 1)

    def detects(self, value: Value) -> str:
        """The smallest gain that would be found, in words; empty where it is not known."""
        if not value.detectable:
            return ""
        return f"{number(100 * value.detectable if self.is_share else value.detectable, 1)}{' points' if self.is_share else ''}"

    def of(self, model: str) -> Value | None:
        """The value of `model`, or None."""
        return next((value for value in self.values if value.model == model), None)


@dataclass(frozen=True, slots=True)
class YesRatio:
    """How often a model says yes, against how often yes is right."""

    benchmark: str
    truth: float | None
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One held-out task: how many questions, and each model's share of right answers."""

    task: str
    kind: str
    questions: int
    shares: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Tasks whose scores mean the same, with the mean over them."""

    name: str
    about: str
    rows: tuple[TaskRow, ...]

    @property
    def means(self) -> list[float | None]:
        """The mean over tasks of each model's share."""
        columns = [
            [share for share in column if share is not None] for column in zip(*(row.shares for row in self.rows), strict=True)
        ]
        return [sum(column) / len(column) if column else None for column in columns]


def tones(models: Sequence[str]) -> dict[str, str]:
    """Each model's colour, as a word that page.css knows."""
    spare = iter(TONES * (1 + len(models) // len(TONES)))
    return {model: model if model in CHAIN else next(spare) for model in models}


def measures(scores: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> list[Measure]:
    """The main measure of each benchmark that was scored, in the order of `MEASURES`; unknown benchmarks last."""
    known = {measure[0]: measure for measure in MEASURES}
    found = []
    for each in in_order({benchmark for model in models for benchmark in scores[model]}):
        benchmark, metrics, name, about = known.get(each, (each, (), title(each), ""))
        first = next((scores[model][benchmark] for model in models if benchmark in scores[model]), None)
        if not isinstance(first, Mapping):
            continue
        plain = [key for key in first if _is_number(first[key]) and not key.endswith((LOW, HIGH))]
        metric = next((metric for metric in metrics if metric in plain), plain[0] if plain else None)
        if metric is not None:
            found.append(measure(scores, models, benchmark, metric, name, about))
    return found


def measure(
    scores: Mapping[str, Mapping[str, Any]], models: Sequence[str], benchmark: str, metric: str, name: str, about: str
) -> Measure:
    """One metric of one benchmark for every model that has it."""
    values = []
    for model in models:
        here = scores[model].get(benchmark)
        if isinstance(here, Mapping) and _is_number(here.get(metric)):
            low, high = here.get(metric + LOW), here.get(metric + HIGH)
            known = _is_number(low) and _is_number(high)
            gain = here.get(f"{metric}_gain")
            chance, least = (here.get(f"{metric}_gain_{name}") for name in ("p", "detectable"))
            sure = _is_number(gain) and _is_number(chance) and chance <= CHANCE
            values.append(
                Value(
                    model,
                    float(here[metric]),
                    low if known else None,
                    high if known else None,
                    gain if _is_number(gain) else None,
                    sure,
                    least if _is_number(least) else None,
                )
            )
    return Measure(benchmark, metric, name, about, tuple(values))


def yes_ratios(scores: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> list[YesRatio]:
    """The yes-ratio of each benchmark that has one."""
    found = []
    for benchmark in in_order({name for model in models for name in scores[model]}):
        ratio = measure(scores, models, benchmark, "yes_ratio", "", "")
        if ratio.values:
            truth = measure(scores, models, benchmark, "truth_yes_ratio", "", "").values
            found.append(YesRatio(benchmark, truth[0].value if truth else None, ratio.values))
    return found


def task_tables(items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[TaskTable]:
    """The held-out tasks, those that are right or wrong apart from those that are only more or less alike."""
    right_or_wrong = [item for item in items if item["kind"] in RIGHT_OR_WRONG]
    alike = [item for item in items if item["kind"] not in RIGHT_OR_WRONG]
    tables = [
        TaskTable(
            "Right or wrong",
            "Short, choice and judgement answers: how many are right, in percent.",
            task_rows(right_or_wrong, models),
        ),
        TaskTable(
            "More or less alike",
            "Longer answers have no one right form: how far their words are those of the truth (F1), in percent.",
            task_rows(alike, models),
        ),
    ]
    return [table for table in tables if table.rows]


def named(benchmark: str) -> str:
    """The name of a benchmark as its authors write it."""
    return next((name for known, _, name, _ in MEASURES if known == benchmark), title(benchmark))


def in_order(benchmarks: Iterable[str]) -> list[str]:
    """`benchmarks` in the order of `MEASURES`, unknown ones last."""
    known = [benchmark for benchmark, *_ in MEASURES]
    return sorted(benchmarks, key=lambda name: (known.index(name) if name in known else len(known), name))


def task_rows(items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> tuple[TaskRow, ...]:
    """Each held-out task's accuracy per model, from the single answers; one of several kinds is one task, as in the macro."""
    scored: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    kinds: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item["benchmark"] == HELD_OUT and item["score"] is not None:
            scored[item["task"]][item["model"]].append(float(item["score"]))
            kinds[item["task"]].add(item["kind"] or "")
    return tuple(
        TaskRow(
            task,
            ", ".join(sorted(kinds[task])),
            max(len(found) for found in of_model.values()),
            tuple(sum(of_model[model]) / len(of_model[model]) if of_model.get(model) else None for model in models),
        )
        for task, of_model in sorted(scored.items())
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
