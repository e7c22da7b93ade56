"""MM-Vet: open questions graded from 0.0 to 1.0 by a judge, summed up by capability and by set of capabilities."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stages.benchmarks.benchmark import wanted

NAME = "mmvet"
DECIMALS = 1
"""Of the points, of 100, that the official code prints."""


def printed(predictions: Path, reference: Path | None) -> dict[str, Any]:
    """The figures that MM-Vet's own script prints.

    Args:
        predictions: The grades, {id: {"model": […], "content": […], "score": […]}}, as many scores each as there were runs.
        reference: `mm-vet.json` or another file {id: {"capability": […]}}; without it there are no figures by capability.

    Returns:
        total, std and runs (the total of each), graded; missing: grades that the judge failed to give, which officially count
        as 0, and if there are some, total_without_missing; capabilities and capability_sets, a set named by its members.

    Raises:
        ValueError: the grades are of no such form, of different numbers of runs, or not to the reference's questions.
    """
    grades = _grades(wanted(predictions, NAME))
    runs = len(next(iter(grades.values()))["score"])
    totals = _means([(["total"], row["score"]) for row in grades.values()], runs)["total"]
    figures: dict[str, Any] = {
        "total": _short(totals.mean()),
        "std": _short(totals.std()),
        "runs": [float(one) for one in np.round(totals, DECIMALS)],
        "graded": len(grades),
        "missing": sum(not _is_grade(content) for row in grades.values() for content in row["content"]),
    }
    if figures["missing"]:
        known = [
            score
            for row in grades.values()
            for content, score in zip(row["content"], row["score"], strict=True)
            if _is_grade(content)
        ]
        figures["total_without_missing"] = _short(100 * np.mean(known)) if known else None
    if reference is None:
        return figures
    capabilities = _capabilities(wanted(reference, NAME), grades, predictions)
    single = _means([(sorted(capabilities[name]), row["score"]) for name, row in grades.items()], runs)
    sets = _means([(["_".join(sorted(capabilities[name]))], row["score"]) for name, row in grades.items()], runs)
    return figures | {
        "capabilities": {name: _short(points.mean()) for name, points in single.items()},
        "capability_sets": {name: _short(points.mean()) for name, points in sets.items()},
    }


def _means(rows: Iterable[tuple[list[str], list[float]]], runs: int) -> dict[str, Any]:
    """The mean of each group's grades in each run, in points of 100, largest group first."""
    sums: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    for groups, scores in rows:
        counts.update(groups)
        for group in groups:
            # One after the other, as officially: another order of the sum has another last bit, which rounding may show.
            kept = sums.setdefault(group, [0.0] * runs)
            for run, score in enumerate(scores):
                kept[run] += score
    return {group: np.array(sums[group]) / count * 100 for group, count in counts.most_common()}


def _short(points: Any) -> float:
    return float(round(points, DECIMALS))


def _is_grade(content: str) -> bool:
    """Whether the judge's words begin with a grade."""
    try:
        return 0.0 <= float(content.split(" ")[0].strip()) <= 1.0
    except ValueError:
        return False


def _grades(path: Path) -> dict[str, dict[str, Any]]:
    grades: dict[str, dict[str, Any]] = _json(path)
    if not isinstance(grades, dict) or not grades:
        raise ValueError(f'{path} must hold grades, {{id: {{"model": […], "content": […], "score": […]}}}}')
    for name, row in grades.items():
        if not isinstance(row, dict) or not {"score", "content"} <= row.keys():
            raise ValueError(
                f"{path}: {name} has no score and content, so these are no grades; a judge must grade answers first"
            )
        if strange := [score for score in row["score"] if not 0 <= score <= 1]:
            raise ValueError(f"{path}: {name} is graded {strange[0]}; a grade lies between 0 and 1")
    runs = {len(row["score"]) for row in grades.values()} | {len(row["content"]) for row in grades.values()}
    if len(runs) > 1 or 0 in runs:
        raise ValueError(f"{path}: every question must be graded in every run, but there are rows of {sorted(runs)} grades")
    return grades


def _capabilities(path: Path, grades: dict[str, Any], predictions: Path) -> dict[str, set[str]]:
    rows = _json(path)
    if not isinstance(rows, dict) or any("capability" not in row for row in rows.values()):
        raise ValueError(f'{path} must hold {{id: {{"capability": […]}}}}, as mm-vet.json does')
    if rows.keys() != grades.keys():
        odd = sorted(rows.keys() ^ grades.keys())
        raise ValueError(
            f"{predictions} grades {len(grades)} questions and {path} has {len(rows)}, and {len(odd)} stand in one of them "
            f"alone (first: {odd[0]}); they belong to different versions of MM-Vet"
        )
    return {name: set(row["capability"]) for name, row in rows.items()}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
