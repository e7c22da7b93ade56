"""What the contamination firewall finds, what it misses, what it takes for a copy and is none, and what it costs.

`python bench/contamination.py`: copies of pictures and questions are made in known ways and looked for; the figures go to
bench/results/contamination.json, the curves to bench/results/contamination.svg. Small real samples (photographs, tables,
digits) are used where they lie beside the project, generated pictures always. `--scale` measures 1 M pictures against 100 K and
1.66 M questions against 100 K, too; it takes some minutes.
"""

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.collection import benchmarks as collection  # noqa: E402
from stages.corpus import contamination, likeness  # noqa: E402
from stages.corpus.contamination import Contamination  # noqa: E402
from stages.corpus.decoding import phash  # noqa: E402
from stages.corpus.example import SCHEMA  # noqa: E402
from stages.running.profile import read_profile  # noqa: E402

SAMPLES = ROOT.parent / "shared" / "samples"
SEED = 17
MOST = 80
"""Pictures of each kind whose copies are looked for."""
SIDE = 400
DISTANCES = tuple(range(0, 14, 2))
CURVES = ("resize 0.25", "jpeg 20", "cut 5 %", "cut 10 %", "cut 15 %", "mirrored", "all at once")
PARAMS = Contamination(**read_profile(ROOT / "profiles" / "vision_flan_site.yaml")["curate"]["contamination"])
"""Of the profile for photographs: the default's differ in picture_tone alone."""

Change = Callable[[Image.Image, random.Random], Image.Image]


# Pictures


def jpeg(quality: int) -> Change:
    def change(picture: Image.Image, draw: random.Random) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")

    return change


def resized(scale: float) -> Change:
    return lambda picture, draw: picture.resize(tuple(max(1, round(scale * side)) for side in picture.size))  # type: ignore[arg-type]


def cut(share: float) -> Change:
    """`share` of the width and of the height cut away, somewhere."""

    def change(picture: Image.Image, draw: random.Random) -> Image.Image:
        width, height = (round(side * (1 - share)) for side in picture.size)
        left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))

    return change


def brighter(factor: float) -> Change:
    return lambda picture, draw: picture.point(lambda level: round(min(255, level * factor)))


def bordered(share: float) -> Change:
    def change(picture: Image.Image, draw: random.Random) -> Image.Image:
        edge = round(share * min(picture.size))
        whole = Image.new("RGB", (picture.width + 2 * edge, picture.height + 2 * edge), "black")
        whole.paste(picture, (edge, edge))
        return whole

    return change


def turned(degrees: float) -> Change:
    return lambda picture, draw: picture.rotate(degrees, Image.Resampling.BICUBIC)


def marked(picture: Image.Image, draw: random.Random) -> Image.Image:
    copy = picture.copy()
    size = max(6, copy.height // 12)
    ImageDraw.Draw(copy).text((copy.width - size, copy.height - size), "(c) somebody", "white", anchor="rs", font_size=size)
    return copy


def mirrored(picture: Image.Image, draw: random.Random) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def at_once(picture: Image.Image, draw: random.Random) -> Image.Image:
    for change in (mirrored, cut(0.05), resized(0.6), jpeg(50)):
        picture = change(picture, draw)
    return picture


CHANGES: dict[str, Change] = {
    **{f"resize {scale:g}": resized(scale) for scale in (0.25, 0.5, 0.75, 1.5, 2)},
    **{f"jpeg {quality}": jpeg(quality) for quality in (20, 40, 60, 80, 95)},
    **{f"cut {share} %": cut(share / 100) for share in (1, 3, 5, 8, 10, 12, 15, 20)},
    "mirrored": mirrored,
    "all at once": at_once,
    **{f"brightness {factor:g}": brighter(factor) for factor in (0.7, 1.1, 1.3)},
    "name in a corner": marked,
    **{f"border {share} %": bordered(share / 100) for share in (1, 2, 5)},
    **{f"turned {degrees} degrees": turned(degrees) for degrees in (1, 2, 5)},
    "upside down": lambda picture, draw: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
}


def generated(number: int) -> list[Image.Image]:
    """Pictures nobody drew, with as much at each scale as photographs have: noise whose power falls with the frequency."""
    made = []
    for at in range(number):
        draw = np.random.default_rng([SEED, at])
        height, width = 240, 320
        steps = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
        waves = draw.normal(size=(3, *steps.shape)) + 1j * draw.normal(size=(3, *steps.shape))
        waves[1:] = 0.7 * waves[:1] + 0.3 * waves[1:]
        noise = np.fft.irfft2(waves / np.maximum(steps, 1) ** 1.2, (height, width))
        levels = 128 + 55 * noise / noise.std((1, 2), keepdims=True)
        made.append(Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    return made


def embedded(number: int) -> list[Image.Image]:
    """Pictures of the embedded benchmarks: plain shapes, words and streets."""
    with tempfile.TemporaryDirectory() as folder:
        collection.llava_bench(Path(folder) / "b", SEED, number, lambda scene: False)
        return read(sorted((Path(folder) / "b" / "images").iterdir()))


def read(paths: Sequence[Path]) -> list[Image.Image]:
    """At most `SIDE` pixels long, so that hundreds are changed in a minute."""
    pictures = [likeness.opened(path.read_bytes()) for path in paths]
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return pictures


def material() -> dict[str, tuple[list[Image.Image], list[Image.Image]]]:
    """Of each kind: benchmark pictures, and others that have nothing to do with them."""
    noise = generated(2 * MOST)
    kinds = {"generated": (noise[:MOST], noise[MOST:])}
    if SAMPLES.is_dir():
        photographs = sorted((SAMPLES / "vision_flan_site" / "imgs").iterdir())
        tables = sorted((SAMPLES / "tabmwp" / "tables").iterdir())
        sides: dict[str, tuple[Sequence[Path], Sequence[Path]]] = {
            "photographs": (photographs[::2], photographs[1::2]),
            "tables": (tables[::2], tables[1::2]),
            **{
                name: (sorted((SAMPLES / name / "test").glob("*/*")), sorted((SAMPLES / name / "train").glob("*/*")))
                for name in ("cifar10", "mnist")
            },
        }
        kinds |= {name: (read(thin(first)), read(thin(second))) for name, (first, second) in sides.items()}
    kinds["embedded"] = (embedded(MOST), [])
    return kinds


def thin(paths: Sequence[Path]) -> Sequence[Path]:
    """At most some 250 of them, evenly."""
    return paths[:: max(1, len(paths) // 250)]


class Seen:
    """How near some pairs are: bits, and what the second look says; [pairs] each."""

    def __init__(self, copies: Sequence[Image.Image], others: Sequence[Image.Image], hashes: Sequence[NDArray[np.uint64]]):
        bits = np.array([np.bitwise_count(made ^ np.uint64(phash(copy))) for copy, made in zip(copies, hashes, strict=True)])
        self.bits = bits.min(1)
        parts = [
            likeness.compared(
                np.stack([likeness.reduced(one, likeness.SHOWN) for one in copies[first : first + 32]]),
                np.stack([likeness.reduced(one, likeness.BASE) for one in others[first : first + 32]]),
                bits.argmin(1)[first : first + 32],
            )
            for first in range(0, len(copies), 32)
        ]
        self.passed = np.concatenate(
            [
                (one.likeness >= PARAMS.picture_likeness)
                & (one.patch <= PARAMS.picture_patch)
                & (one.tone <= PARAMS.picture_tone)
                for one in parts
            ]
        )

    def shares(self, seen: bool) -> list[float]:
        """The share of the pairs within each of `DISTANCES`, of those that pass the second look if `seen`."""
        return [round(float(((self.bits <= bits) & (self.passed | (not seen))).mean()), 4) for bits in DISTANCES]


def recall(pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Of each change the share of copies found: within each distance, without and with the second look."""
    pictures = list(pictures)[:MOST]
    hashes = [likeness.hashes(picture) for picture in pictures]
    found = {}
    for name, change in CHANGES.items():
        draw = random.Random(f"{SEED}/{name}")
        seen = Seen([change(picture, draw) for picture in pictures], pictures, hashes)
        found[name] = {"hash": seen.shares(False), "seen": seen.shares(True)}
    return found


def mistaken(benchmark: Sequence[Image.Image], others: Sequence[Image.Image]) -> dict[str, Any]:
    """Of unrelated pictures the number within each distance of any of the benchmark's, without and with the second look."""
    hashes = [likeness.hashes(picture) for picture in benchmark]
    theirs = np.array([phash(picture) for picture in others], dtype=np.uint64)
    bits = np.stack([np.bitwise_count(made[:, None] ^ theirs[None]).min(0) for made in hashes])
    item, other = np.nonzero(bits <= DISTANCES[-1])
    by_bits = {"hash": [0] * len(DISTANCES), "seen": [0] * len(DISTANCES)}
    if len(item):
        seen = Seen(
            [others[at] for at in other.tolist()], [benchmark[at] for at in item.tolist()], [hashes[at] for at in item.tolist()]
        )
        for place, most in enumerate(DISTANCES):
            by_bits["hash"][place] = len(set(other[seen.bits <= most]))
            by_bits["seen"][place] = len(set(other[(seen.bits <= most) & seen.passed]))
    return {"pictures": len(others), "benchmark": len(benchmark), **by_bits}


# Questions

WHAT = (
    "person", "dog", "boat", "lamp", "bridge", "table", "sign", "window", "basket", "horse", "clock", "kettle", "ladder",
    "garden", "river", "tower",
)  # fmt: skip
HOW = ("old", "red", "wooden", "small", "broken", "painted", "tall", "quiet", "empty", "bright", "rusty", "curved")
DOES = ("holds", "covers", "leads to", "stands behind", "belongs to", "hides", "reflects", "carries")
ASKS = (
    "What would happen if the {h} {w} that {d} the {h2} {w2} were moved next to the {w3}?",
    "Why do you think the {h} {w} {d} the {w2} while the {h2} {w3} is turned away?",
    "How many of the {w}s near the {h} {w2} are {h2}, and which one {d} the {w3}?",
    "Can you explain what makes the {h} {w} in front of the {w2} look {h2} beside a {w3}?",
    "Is there a {w} in the image?",
    "What colour is the {w}?",
)


def question(draw: random.Random, specific: bool) -> str:
    """One of a template's many questions; the long ones have five words of their own, the short ones one."""
    asks = draw.choice(ASKS[:4] if specific else ASKS[4:])
    names = dict(zip(("w", "w2", "w3"), draw.sample(WHAT, 3), strict=True)) | dict(
        zip(("h", "h2"), draw.sample(HOW, 2), strict=True)
    )
    return asks.format(d=draw.choice(DOES), **names)


def edited(number: int) -> Callable[[str, random.Random], str]:
    """`number` words replaced by another."""

    def change(text: str, draw: random.Random) -> str:
        words = text.split()
        for at in draw.sample(range(len(words)), min(number, len(words))):
            words[at] = "something"
        return " ".join(words)

    return change


REWORDED = {
    "what": "which thing", "would": "might", "happen": "occur", "if": "in case", "why": "for what reason", "how": "in what",
    "think": "believe", "explain": "say", "makes": "lets", "moved": "shifted", "near": "close to", "many": "much", "is": "was",
    "the": "that", "in": "within", "of": "from", "and": "plus", "next": "close", "while": "as", "turned": "facing",
}  # fmt: skip
EDITS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, draw: text,
    "case and punctuation": lambda text, draw: text.upper().replace(",", " -").replace("?", " !"),
    "words before and after": lambda text, draw: f"Look at it closely. {text} Answer in a sentence.",
    **{f"{number} words replaced": edited(number) for number in (1, 2, 3, 4)},
    "halves turned": lambda text, draw: " ".join(
        text.split()[len(text.split()) // 2 :] + text.split()[: len(text.split()) // 2]
    ),
    "reworded": lambda text, draw: " ".join(REWORDED.get(word.lower(), word) for word in text.split()),
}
SHARES = tuple(round(share / 20, 2) for share in range(2, 21))


def questions_found(rows: int = 20_000, number: int = 400) -> dict[str, Any]:
    """Recall of each edit, and unrelated rows mistaken, by the share asked for; all rows are of the benchmark's templates."""
    draw = random.Random(SEED)
    asked = [question(draw, specific=True) for _ in range(number)]
    others = [text for text in (question(draw, at % 60 == 0) for at in range(rows)) if text not in set(asked)]
    items = contamination.items_of(
        [contamination.Asked("own", str(at), text, "", None) for at, text in enumerate(asked)], PARAMS
    )
    names = [f"{edit}/{at}" for edit in EDITS for at in range(number)]
    planted = [change(text, draw) for change in EDITS.values() for text in asked]
    found: dict[str, Any] = {"words": round(float(np.mean([len(text.split()) for text in asked])), 1), "rows": len(others)}
    given = PARAMS.model_copy(update={"question_share": SHARES[0]})
    texts = [*others, *planted]
    best: dict[int, float] = {}
    # One edit at a time beside the others: all at once, each question would be asked so often that it is a template.
    for edit, first in zip(EDITS, range(len(others), len(texts), number), strict=True):
        chosen = [*range(len(others)), *range(first, first + number)]
        lines = by_question([texts[at] for at in chosen], items, given)
        best = {chosen[row]: max(best.get(chosen[row], 0.0), share) for row, share in lines}
        shares = [best.get(at, 0.0) for at in range(first, first + number)]
        found[edit] = [round(float(np.mean([one >= share for one in shares])), 4) for share in SHARES]
    found["mistaken"] = [sum(best.get(at, 0.0) >= share for at in range(len(others))) for share in SHARES]
    assert len(names) == len(planted)
    return found


def by_question(texts: Sequence[str], items: contamination.Items, given: Contamination) -> list[tuple[int, float]]:
    table = conversations(texts)
    marked = contamination.marks(table, items.known, given.question_words, given.question_rows)
    rows = pl.DataFrame({"source": "s", "row": pl.int_range(len(texts), eager=True)})
    none = pl.DataFrame(schema={"source": pl.String, "row": pl.Int64, "picture": pl.Int64})
    looks = pl.DataFrame(schema={"picture": pl.Int64, "sha256": pl.String, "phash": pl.UInt64})
    alone = given.model_copy(update={"rule": "question"})
    return contamination.evidence(rows, none, marked, looks, items, [], alone).select("row", "overlap").rows()


def conversations(texts: Sequence[str], first: int = 0) -> pa.Table:
    """Rows that ask `texts`: what `marks` reads of a shard."""
    turns = [[{"role": "user", "text": text}] for text in texts]
    columns = {"source": pa.array(["s"] * len(texts)), "row": pa.array(range(first, first + len(texts)), pa.int64())}
    return pa.table({**columns, "turns": pa.array(turns, SCHEMA.field("turns").type)})


# Scale


def scale(pictures: int, items: int, rows: int) -> dict[str, Any]:
    """Seconds and memory for so many pictures and rows, against so many benchmark items; random but for a thousand."""
    draw = np.random.default_rng(SEED)
    planted = min(1000, items)
    seen = draw.integers(0, 2**64, pictures, dtype=np.uint64)
    hashes = draw.integers(0, 2**64, items * likeness.HASHES, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in draw.choice(64, draw.integers(0, 9), replace=False)) for _ in range(planted)]
    )
    seen[:planted] = hashes[:: likeness.HASHES][:planted] ^ flips.astype(np.uint64)
    left = pl.DataFrame({"sha256": [f"{at:064x}" for at in range(pictures)], "phash": seen})
    names = pl.Series([f"b{at:063x}" for at in range(items)]).gather(np.repeat(np.arange(items), likeness.HASHES))
    right = pl.DataFrame({"sha256": names, "hash": hashes, "which": np.tile(np.arange(likeness.HASHES, dtype=np.uint8), items)})
    began = time.perf_counter()
    found = contamination.suspects(left, right, PARAMS.picture_bits)
    told: dict[str, Any] = {
        "pictures": pictures,
        "benchmark_pictures": items,
        "hashes": len(right),
        "suspects_seconds": round(time.perf_counter() - began, 1),
        "suspects": len(found),
        "planted_found": len(found.filter(pl.col("sha256").is_in(left["sha256"][:planted].implode()))),
        "planted": planted,
    }
    del left, right, found, hashes, names
    told |= questions_at_scale(rows, items)
    told["peak_rss_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return told


def questions_at_scale(rows: int, items: int, shard: int = 50_000) -> dict[str, Any]:
    """Random questions of a vocabulary as word counts fall in English (Zipf), a thousand of them the benchmark's."""
    draw = np.random.default_rng(SEED)
    words = np.array([f"w{at}" for at in range(20_000)], dtype=object)

    def texts(number: int) -> list[str]:
        chosen = np.minimum(draw.zipf(1.3, (number, 14)) - 1, len(words) - 1)
        return [" ".join(line) for line in words[chosen].tolist()]

    asked = texts(items)
    began = time.perf_counter()
    compared = contamination.items_of(
        [contamination.Asked("b", str(at), text, "", None) for at, text in enumerate(asked)], PARAMS
    )
    reading = time.perf_counter() - began
    marking, marked = 0.0, []
    for first in range(0, rows, shard):
        here = texts(min(shard, rows - first))
        if not first:
            here[:1000] = asked[:1000]
        table = conversations(here, first)
        began = time.perf_counter()
        marked.append(contamination.marks(table, compared.known, PARAMS.question_words, PARAMS.question_rows))
        marking += time.perf_counter() - began
    began = time.perf_counter()
    every = pl.DataFrame({"source": "s", "row": pl.int_range(rows, eager=True)})
    none = pl.DataFrame(schema={"source": pl.String, "row": pl.Int64, "picture": pl.Int64})
    looks = pl.DataFrame(schema={"picture": pl.Int64, "sha256": pl.String, "phash": pl.UInt64})
    alone = PARAMS.model_copy(update={"rule": "question"})
    lines = contamination.evidence(every, none, pl.concat(marked), looks, compared, [], alone)
    return {
        "rows": rows,
        "benchmark_questions": items,
        "questions_read_seconds": round(reading, 1),
        "marks_seconds": round(marking, 1),
        "questions_seconds": round(time.perf_counter() - began, 1),
        "questions_planted_found": lines.filter(pl.col("row") < 1000)["row"].n_unique(),
    }


# The drawing

TONES = ("#1f6f8b", "#c8553d", "#5b8c5a", "#8e5ea2", "#d49a2a", "#444444", "#2a9d8f", "#b5838d", "#6d6875")
WIDE, TALL, LEFT, TOP = 360, 220, 56, 40


def panel(
    column: int,
    line: int,
    title: str,
    x: Sequence[float],
    curves: dict[str, Sequence[float]],
    x_name: str,
    most: float,
    y_name: str,
) -> str:
    """One chart: solid lines are with the second look, a name that ends in "hash" is dashed: without."""
    left, top = LEFT + column * (WIDE + 190), TOP + line * (TALL + 90)

    def place(at: float, value: float) -> str:
        return f"{left + WIDE * (at - x[0]) / (x[-1] - x[0]):.1f},{top + TALL * (1 - value / most):.1f}"

    parts = [f'<text x="{left}" y="{top - 14}" class="title">{title}</text>']
    for step in range(5):
        y = top + TALL * (1 - step / 4)
        value = most * step / 4
        shown = f"{value:.0%}" if y_name == "found" else f"{value:,.0f}"
        parts.append(f'<line x1="{left}" x2="{left + WIDE}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{shown}</text>')
    for at in x[:: 2 if len(x) > 10 else 1]:
        parts.append(f'<text x="{place(at, 0).split(",")[0]}" y="{top + TALL + 16}" text-anchor="middle">{at:g}</text>')
    parts.append(f'<text x="{left + WIDE / 2}" y="{top + TALL + 34}" text-anchor="middle">{x_name}</text>')
    names = sorted({name.removesuffix(" hash") for name in curves}, key=[name.removesuffix(" hash") for name in curves].index)
    for name, values in curves.items():
        tone = TONES[names.index(name.removesuffix(" hash")) % len(TONES)]
        dashed = ' stroke-dasharray="4 4" opacity="0.7"' if name.endswith(" hash") else ""
        points = " ".join(place(at, value) for at, value in zip(x, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{tone}" stroke-width="2"{dashed}/>')
    for number, name in enumerate(names):
        y = top + 8 + 17 * number
        parts.append(f'<rect x="{left + WIDE + 12}" y="{y - 5}" width="14" height="3" fill="{TONES[number % len(TONES)]}"/>')
        parts.append(f'<text x="{left + WIDE + 32}" y="{y}">{name}</text>')
    return "".join(parts)


def drawn(figures: dict[str, Any]) -> str:
    """The curves as one SVG."""
    kind = "photographs" if "photographs" in figures["recall"] else "generated"
    found = figures["recall"][kind]
    wrong = {name: told for name, told in figures["mistaken"].items()}
    most = max(max(told["hash"]) for told in wrong.values()) or 1
    shares = {name: values for name, values in figures["questions"].items() if name in EDITS}
    cuts = [name for name in CHANGES if name.startswith("cut")]
    at = DISTANCES.index(PARAMS.picture_bits)
    panels = [
        panel(
            0, 0, f"Copies found: {kind}", DISTANCES,
            {name: found[name]["seen"] for name in CURVES} | {f"{name} hash": found[name]["hash"] for name in CURVES},
            "bits in which the hashes may differ", 1, "found",
        ),
        panel(
            1, 0, "Unrelated pictures taken for copies (dashed: by the hash alone)", DISTANCES,
            {f"{name} ({told['pictures']})": told["seen"] for name, told in wrong.items()}
            | {f"{name} ({told['pictures']}) hash": told["hash"] for name, told in wrong.items()},
            "bits in which the hashes may differ", most, "pictures",
        ),
        panel(
            0, 1, f"Copies found by how much is cut away, within {PARAMS.picture_bits} bits",
            [float(name.split()[1]) for name in cuts],
            {kind: [told[name]["seen"][at] for name in cuts] for kind, told in figures["recall"].items()},
            "% of width and of height", 1, "found",
        ),
        panel(1, 1, "Questions found, by how they were edited", SHARES, shares, "share of rare runs asked for", 1, "found"),
    ]  # fmt: skip
    style = "text{font:12px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}.grid{stroke:#ddd}"
    width, height = LEFT + 2 * (WIDE + 190), TOP + 2 * (TALL + 90)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n'
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--scale", action="store_true", help="measure 1 M against 100 K too")
    asked = parser.parse_args()
    kinds = material()
    path = machine.RESULTS / "contamination.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures: dict[str, Any] = {
        "commit": machine.commit(),
        "machine": machine.describe(),
        "command": "python bench/contamination.py --scale",
        "params": PARAMS.model_dump(exclude={"folder", "benchmarks"}),
        "distances": DISTANCES,
        "recall": {name: recall(benchmark) for name, (benchmark, _) in kinds.items()},
        "mistaken": {name: mistaken(benchmark, others) for name, (benchmark, others) in kinds.items() if others},
        "shares": SHARES,
        "questions": questions_found(),
        "scale": scale(1_000_000, 100_000, 1_660_000) if asked.scale else before.get("scale"),
    }
    show(figures)
    machine.write("contamination", figures)
    (machine.RESULTS / "contamination.svg").write_text(drawn(figures), encoding="utf-8")


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    at = DISTANCES.index(PARAMS.picture_bits)
    print(f"copies found within {PARAMS.picture_bits} bits that pass the second look\n")
    print(f"{'':<22}" + "".join(f"{kind:>13}" for kind in figures["recall"]))
    for name in CHANGES:
        print(f"{name:<22}" + "".join(f"{told[name]['seen'][at]:>13.1%}" for told in figures["recall"].values()))
    print("\nunrelated pictures taken for copies: by the hash alone, and after the second look\n")
    for kind, told in figures["mistaken"].items():
        print(f"{kind:<22}{told['hash'][at]:>6}{told['seen'][at]:>6} of {told['pictures']} against {told['benchmark']}")
    place = SHARES.index(PARAMS.question_share)
    print("\nquestions found\n")
    for name in EDITS:
        print(f"{name:<26}{figures['questions'][name][place]:>8.1%}")
    print(f"{'unrelated, mistaken':<26}{figures['questions']['mistaken'][place]:>8} of {figures['questions']['rows']}")
    print(f"\n{figures['scale']}")


if __name__ == "__main__":
    main()
