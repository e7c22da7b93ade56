"""Trees against separate rows: `python bench/trees.py [PAIRS]`, after a `dvc repro connect`.

One process, alternating: forward and backward over the same pictures' examples, once as trees behind one shared prefix, once
as the rows a plain trainer sees, sorted by length and cut into batches of the same number of tokens, padded within each.
Loss at supervised positions only on both sides, bf16 autocast, eager attention on CPU; the optimizer is left out, for it
costs both the same. Written: bench/results/trees.json, medians of examples a second and their ratio with its quartiles.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
import torch

from stages.models.loading import load_model, load_processor
from stages.running.progress import progress
from stages.trees import tree
from stages.trees.batch import separate_rows
from stages.trees.tree import Tree
from stages.tuning.data import Collator, Pixels

RESULT = Path(__file__).parent / "results" / "trees.json"
PICTURES, IN_A_BATCH, THREADS = 64, 16, 2
BASE, RENDERED, INGESTED = Path("data/connect/model"), Path("data/render/train"), Path("data/ingest")


def main(pairs: int = 9) -> None:
    """Set up both sides, warm both, alternate, write."""
    torch.set_num_threads(THREADS)
    trees = tree.read(RENDERED / "trees.parquet")[:: len(tree.read(RENDERED / "trees.parquet")) // PICTURES][:PICTURES]
    processor = load_processor(BASE)
    model = load_model(BASE, attention="eager").train()
    pixels = Pixels(INGESTED, trees, processor)
    as_trees = [trees[first : first + IN_A_BATCH] for first in range(0, len(trees), IN_A_BATCH)]
    budget = max(len(batch) * max(one.tokens for one in batch) for batch in as_trees)
    as_rows = batches_of_rows([row for one in trees for row in separate_rows(one)], budget)
    sides: dict[str, Callable[[], float]] = {
        "trees": lambda: passes(model, Collator(pixels, processor, True, True, "token"), as_trees),
        "rows": lambda: passes(model, Collator(pixels, processor, False, True, "token"), as_rows),
    }
    losses = {name: side() for name, side in sides.items()}  # also the warming
    assert abs(losses["trees"] / losses["rows"] - 1) < 0.02, f"the sides learn different things: {losses}"
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in progress(range(pairs), "pairs", "pair"):
        for name in sorted(sides, reverse=bool(number % 2)):
            began = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - began)
    examples = sum(len(one.branches) for one in trees)
    ratios = [rows / trees for rows, trees in zip(seconds["rows"], seconds["trees"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    result = {
        "machine": machine.describe(),
        "command": f"python bench/trees.py {pairs}",
        "compared": "forward and backward over the same examples, as trees and as rows sorted by length, same tokens a batch",
        "pictures": len(trees),
        "examples": examples,
        "threads": THREADS,
        "tokens": {
            "trees": sum(one.tokens for one in trees),
            "rows": sum(row.tokens for batch in as_rows for row in batch),
        },
        "examples_per_second": {name: round(examples / statistics.median(times), 1) for name, times in seconds.items()},
        "times_as_fast": {"median": round(statistics.median(ratios), 3), "quartiles": [round(q, 3) for q in quartiles]},
        "pairs": pairs,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def batches_of_rows(rows: Sequence[Tree], budget: int) -> list[list[Tree]]:
    """`rows` from the shortest to the longest, in batches of at most `budget` tokens with padding."""
    batches: list[list[Tree]] = [[]]
    for row in sorted(rows, key=lambda row: row.tokens):
        if batches[-1] and (len(batches[-1]) + 1) * row.tokens > budget:
            batches.append([])
        batches[-1].append(row)
    return batches


def passes(model: torch.nn.Module, collator: Collator, batches: Sequence[Sequence[Tree]]) -> float:
    """Forward and backward over all `batches`; the loss summed over supervised tokens."""
    total = 0.0
    for batch in batches:
        inputs = collator(batch)
        labels = inputs.pop("labels")
        del inputs["weights"]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        loss.backward()
        total += loss.item()
    model.zero_grad(set_to_none=True)
    return total


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
