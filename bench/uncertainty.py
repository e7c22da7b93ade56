"""Whether intervals and tests keep what they promise, by simulation: `python bench/uncertainty.py [--rounds 1000]`.

Suites are drawn whose truth is known: each picture has a difficulty of its own (beta-distributed, so that the questions about
one picture are right or wrong together), and models answer by it. Of each suite an interval is made as `evaluate` makes it, and
holds the truth or does not; two models that are equally good (A/A) are tested as `register` tests them, and are told apart or
not; and a gain of the size that the suite is said to detect is found or not. Wanted: 93 to 97 % of the intervals hold the
truth, 5 % of the A/A pairs at most are told apart on a side, and 80 % of such gains are found.

Writes bench/results/uncertainty.json.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.benchmarks.statistics import Figure, Floats, draws, holm, interval, mean_of, paired, ratio  # noqa: E402

RESAMPLES = 1000
LEVEL = 0.05
BENCHMARKS = 6
"""Tested together, with Holm's correction."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark of so many pictures and questions about each, of which a model answers `skill` rightly in the mean."""

    name: str
    pictures: int
    questions: int
    skill: float
    alike: float
    """Correlation of two questions about one picture."""
    figure: str
    """mean; plus: the share of pictures with all questions right; f1: of Yes answers, half the truths being Yes."""


SUITES = (
    Suite("60 pictures, 2 questions", 60, 2, 0.6, 0.3, "mean"),
    Suite("60 pictures, 6 questions", 60, 6, 0.6, 0.3, "mean"),
    Suite("500 pictures, 6 questions", 500, 6, 0.85, 0.3, "mean"),
    Suite("1,000 pictures, 2 questions", 1000, 2, 0.75, 0.5, "mean"),
    Suite("MME's form: pictures with both right", 300, 2, 0.75, 0.3, "plus"),
    Suite("POPE's form: F1 of Yes", 500, 6, 0.85, 0.2, "f1"),
    Suite("24 pictures, 2 or 3 questions (LLaVA-Bench's size)", 24, 3, 0.7, 0.2, "mean"),
)


def main() -> None:
    """Simulate every suite, write, show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="suites drawn of each kind (1000)")
    rounds = parser.parse_args().rounds
    figures: dict[str, Any] = {
        "commit": machine.commit(),
        "machine": machine.describe(),
        "command": f"python bench/uncertainty.py --rounds {rounds}",
        "rounds": rounds,
        "resamples": RESAMPLES,
        "suites": [{**asdict(suite), **simulated(suite, rounds)} for suite in SUITES],
        "family": family(rounds),
    }
    for one in figures["suites"]:
        found = ", ".join(f"{name} {one[name]:.1%}" for name in ("coverage", "a_a_better", "a_a_worse", "power"))
        print(f"{one['name']:<52} {found}; detects {one['detects']:.1%}")
    print(f"{BENCHMARKS} benchmarks, A/A, any called better: {figures['family']:.1%}")
    print(f"written: {machine.write('uncertainty', figures).relative_to(ROOT)}")


def simulated(suite: Suite, rounds: int) -> dict[str, float]:
    """How often the interval holds the truth, an A/A pair is told apart, and a gain is found; and which gain that is."""
    truth = _truth(suite)
    held = better = worse = found = 0
    detects = []
    for seed in range(rounds):
        generator = np.random.default_rng([seed, suite.pictures, suite.questions])
        skill = _difficulty(suite, generator)
        clusters = np.repeat(np.arange(suite.pictures), suite.questions).astype(str).tolist()
        right = _answers(skill, generator)
        low, high = interval(draws({"figure": _figure(suite, right, generator)}, clusters, RESAMPLES, seed)["figure"])
        held += low <= truth <= high
        other = _answers(skill, generator)
        test = paired(right.ravel().tolist(), other.ravel().tolist(), clusters, RESAMPLES, seed)
        better += test.p_better <= LEVEL
        worse += test.p_worse <= LEVEL
        detects.append(test.detectable)
        # A share of what was answered wrongly is answered rightly: so the mean gain is the one meant, whatever each picture's.
        gain = _answers(skill + (1 - skill) * min(1.0, test.detectable / (1 - suite.skill)), generator)
        found += paired(right.ravel().tolist(), gain.ravel().tolist(), clusters, RESAMPLES, seed).p_better <= LEVEL / 2
    return {
        "coverage": held / rounds,
        "a_a_better": better / rounds,
        "a_a_worse": worse / rounds,
        "detects": float(np.mean(detects)),
        "power": found / rounds,
    }


def family(rounds: int) -> float:
    """How often any of several benchmarks calls one of two equal models better, after Holm's correction."""
    suite, alarms = SUITES[1], 0
    clusters = np.repeat(np.arange(suite.pictures), suite.questions).astype(str).tolist()
    for seed in range(rounds):
        generator = np.random.default_rng([seed, BENCHMARKS])
        ps = {}
        for number in range(BENCHMARKS):
            skill = _difficulty(suite, generator)
            pair = (_answers(skill, generator).ravel().tolist() for _ in range(2))
            ps[str(number)] = paired(*pair, clusters, RESAMPLES, seed).p_better
        alarms += min(holm(ps).values()) <= LEVEL
    return alarms / rounds


def _difficulty(suite: Suite, generator: np.random.Generator) -> Floats:
    """[pictures, 1]: how likely a question about each picture is answered rightly."""
    spread = 1 / suite.alike - 1
    return generator.beta(suite.skill * spread, (1 - suite.skill) * spread, (suite.pictures, 1)).repeat(suite.questions, 1)


def _answers(skill: Floats, generator: np.random.Generator) -> Floats:
    right: Floats = (generator.random(skill.shape) < skill).astype(float)
    return right


def _figure(suite: Suite, right: Floats, generator: np.random.Generator) -> Figure:
    if suite.figure == "mean":
        return mean_of(right.ravel().tolist())
    if suite.figure == "plus":
        # Each question carries its share of the picture, as MME's acc+ is told.
        whole = np.repeat(right.all(1) / suite.questions, suite.questions)
        return Figure(np.column_stack([whole, np.full(right.size, 1 / suite.questions)]), _ratio)
    truth = np.tile(np.arange(suite.questions) % 2, (suite.pictures, 1)).ravel()
    said = np.where(right.ravel() == 1, truth, 1 - truth)
    tp, wrong = truth * said, (truth != said).astype(float)
    return Figure(np.column_stack([2 * tp, 2 * tp + wrong]), _ratio)


def _ratio(sums: Floats) -> Floats:
    return ratio(sums[..., 0], sums[..., 1])


def _truth(suite: Suite) -> float:
    """The figure of a suite without end."""
    if suite.figure == "mean":
        return suite.skill
    if suite.figure == "plus":
        spread = 1 / suite.alike - 1
        a, b = suite.skill * spread, (1 - suite.skill) * spread
        both: Callable[[int], float] = lambda n: 1.0 if n == 0 else both(n - 1) * (a + n - 1) / (a + b + n - 1)  # noqa: E731
        return both(suite.questions)
    # Half the truths are Yes: tp = skill / 2, wrong = 1 - skill.
    return suite.skill / (suite.skill + 1 - suite.skill)


if __name__ == "__main__":
    main()
