"""Trees against separate rows: `python bench/trees.py [PAIRS]`, after a `dvc repro render`, or without any data.

One forward and backward pass over the same examples, as trees behind one shared prefix and as rows of their own; in one
process and in turns, so that whatever slows the machine slows both. Both sides have what a good trainer gives: packed without
padding into batches of the same number of tokens, logits at supervised positions only, bf16 autocast, the same attention,
pictures preprocessed before. Batches and masks are timed with it; the optimizer is not, for it costs both the same.

Fewer than seven pairs are shown and not written to bench/results/trees.json.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.collection.sentences import sentences  # noqa: E402
from stages.models.loading import load_model, load_processor  # noqa: E402
from stages.models.sections import Tiny  # noqa: E402
from stages.models.tiny import build  # noqa: E402
from stages.running.progress import progress  # noqa: E402
from stages.running.section import read_params  # noqa: E402
from stages.trees import attention, tree  # noqa: E402
from stages.trees.batch import separate_rows  # noqa: E402
from stages.trees.tree import Branch, Tree  # noqa: E402
from stages.tuning.data import Collator, packed  # noqa: E402
from stages.tuning.pixels import Pixels  # noqa: E402

BASE, RENDERED, INGESTED = ROOT / "data/base/model", ROOT / "data/render/train", ROOT / "data/ingest"
SEED = 17
ATTENTION = {"text_config": attention.NAME, "vision_config": "eager"}
TOKENS_A_BATCH = 3072
"""As the default has it."""
FEWEST_PAIRS = 7
TOLERANCE = 0.01
"""How far the two sides' losses may lie apart; bf16 sums in another order differ by some thousandths."""


@dataclass(frozen=True)
class Material:
    """What is learnt, and by which model."""

    origin: str
    trees: list[Tree]
    model: PreTrainedModel
    processor: ProcessorMixin
    pixels: Pixels


@dataclass(frozen=True)
class Side:
    """The same examples in one of the two forms."""

    batches: list[list[Tree]]
    collator: Collator

    def sizes(self) -> dict[str, int]:
        """What the model is given in one pass."""
        return {
            "batches": len(self.batches),
            "pictures": sum(len(one.images) for batch in self.batches for one in batch),
            "tokens": sum(one.tokens for batch in self.batches for one in batch),
        }


def main() -> None:
    """Set up both sides, compare them, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=9, help="how often both sides are timed (9)")
    parser.add_argument("--pictures", type=int, default=64, help="how many trees (64)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1, as each process of the default run has)")
    asked = parser.parse_args()
    if asked.pairs < 2:
        parser.error("one pair has no spread; ask for two or more")
    described = machine.describe()
    torch.set_num_threads(asked.threads)
    material = rendered(asked.pictures) if RENDERED.exists() and BASE.exists() else generated(asked.pictures, tiny_of_params())
    figures = {
        "commit": machine.commit(),
        "machine": described,
        "command": f"python bench/trees.py {asked.pairs} --pictures {asked.pictures} --threads {asked.threads}",
        "examples_from": material.origin,
        **compare(material, asked.pairs),
    }
    show(figures)
    if asked.pairs >= FEWEST_PAIRS:
        print(f"\nwritten: {machine.write('trees', figures).relative_to(ROOT)}")
    else:
        print(f"\nnot written: {asked.pairs} pairs, wanted at least {FEWEST_PAIRS}")


def tiny_of_params() -> Tiny:
    """The sizes of the default's tiny model."""
    return Tiny(**read_params(ROOT / "params.yaml")["base"]["tiny"])


def rendered(pictures: int) -> Material:
    """Trees that `train` learns from, drawn by a seed, and the model the chain starts from."""
    every = tree.read_all(RENDERED)
    trees = random.Random(SEED).sample(every, min(pictures, len(every)))
    processor = load_processor(BASE)
    pixels = Pixels(INGESTED, trees, processor)
    return Material("data/render/train", trees, load_model(BASE, attention=ATTENTION), processor, pixels)


def generated(pictures: int, tiny: Tiny) -> Material:
    """Trees of random words in the sizes of the embedded ones, pictures of noise, and a tiny model with first weights."""
    with tempfile.TemporaryDirectory() as folder:
        build(tiny, SEED, sentences(SEED, 2000), Path(folder))
        model, processor = load_model(Path(folder), attention=ATTENTION), load_processor(Path(folder))
    chance = random.Random(SEED)
    special = set(processor.tokenizer.all_special_ids)
    words = [id for id in range(len(processor.tokenizer)) if id not in special]
    prefix = (chance.choice(words), *[model.config.image_token_id] * (tiny.image_size // tiny.patch_size) ** 2)

    def branch(row: int) -> Branch:
        asked, answer = chance.randint(8, 20), chance.choice((2, 2, 3, 4, 20))
        ids = tuple(chance.choices(words, k=asked + answer))
        return Branch("generated", row, "words", "short", ids, (False,) * asked + (True,) * answer)

    trees = [
        Tree((f"{number}",), prefix, tuple(branch(row) for row in range(chance.randint(2, 10)))) for number in range(pictures)
    ]
    return Material("generated", trees, model, processor, Noise(tiny.image_size))


class Noise(Pixels):
    """Pictures nobody drew, as the image processor would give them."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, digests: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Noise that hangs on the picture's name alone."""
        generator = torch.Generator().manual_seed(int(digests[0]))
        return {"pixel_values": torch.randn(len(digests), 3, self.side, self.side, generator=generator)}


def compare(material: Material, pairs: int) -> dict[str, Any]:
    """Time both sides `pairs` times, in turns; who goes first changes too.

    Raises:
        ValueError: the sides do not learn the same, so their times say nothing.
    """
    sides = sides_of(material)
    # Also the warming: allocator, threads, the cache of preprocessed pictures.
    losses = {name: one_pass(material.model, side) for name, side in sides.items()}
    if abs(losses["trees"] / losses["rows"] - 1) > TOLERANCE:
        raise ValueError(f"the sides learn different things: their losses are {losses}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in progress(range(pairs), "pairs", "pair"):
        for name in list(sides) if number % 2 else reversed(sides):
            seconds[name].append(timed(partial(one_pass, material.model, sides[name])))
    examples = sum(len(one.branches) for one in material.trees)
    return {
        "threads": torch.get_num_threads(),
        "pictures": len(material.trees),
        "examples": examples,
        "pairs": pairs,
        "trees_times_as_fast": spread([b / a for a, b in zip(seconds["trees"], seconds["rows"], strict=True)]),
        **{name: {**side.sizes(), **speed(side, examples, seconds[name])} for name, side in sides.items()},
    }


def sides_of(material: Material) -> dict[str, Side]:
    """Trees and rows, batched by the same rule."""
    rows = [row for one in material.trees for row in separate_rows(one)]
    collator = Collator(material.pixels, material.processor, flat=True, weighting="token")
    return {
        "trees": Side(batches(material.trees, TOKENS_A_BATCH), collator),
        "rows": Side(batches(rows, TOKENS_A_BATCH), collator),
    }


def batches(trees: Sequence[Tree], most: int) -> list[list[Tree]]:
    """`trees` in batches of at most `most` tokens, as equal as can be."""
    (laid,) = packed([range(len(trees))], [one.tokens for one in trees], most, processes=1)
    return [[trees[index] for index in batch] for batch in laid]


def one_pass(model: PreTrainedModel, side: Side) -> float:
    """Forward and backward over all batches of `side`; returns the loss summed over supervised tokens."""
    model.train()
    model.zero_grad()
    total = 0.0
    for batch in side.batches:
        inputs = side.collator([batch])
        labels = inputs.pop("labels")
        del inputs["weights"]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(side: Side, examples: int, seconds: Sequence[float]) -> dict[str, float]:
    """Of the median pass. Tokens count as often as they are read, and rows read a picture's anew for each: compare examples."""
    median = statistics.median(seconds)
    return {
        "seconds": round(median, 3),
        "examples_per_second": round(examples / median, 1),
        "tokens_per_second": round(side.sizes()["tokens"] / median),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, least and most."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    named = {"median": median, "quartile_low": low, "quartile_high": high, "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    trees, rows, ratio = figures["trees"], figures["rows"], figures["trees_times_as_fast"]
    print(f"{figures['pictures']} pictures, {figures['examples']} examples from {figures['examples_from']}\n")
    print(f"{'':<22}{'trees':>12}{'rows':>12}")
    for name in trees:
        print(f"{name:<22}{trees[name]:>12,}{rows[name]:>12,}")
    print(
        f"\ntrees are {ratio['median']} times as fast (quartiles {ratio['quartile_low']} to {ratio['quartile_high']}, "
        f"{figures['pairs']} pairs)"
    )


if __name__ == "__main__":
    main()
