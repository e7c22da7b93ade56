"""The data half against the plain way: `python bench/plain.py [PAIRS] [--rows ROWS]`.

The plain way is a script as many write it, bench/plain_way.py: `datasets` with `map` in two processes, Pillow for the
pictures, the processor for the text. It opens every row's picture to its last pixel, drops rows whose picture is broken or
missing and rows it has seen before, writes the chat template's text as token ids with the prompt masked, and stores rows and
pictures as Parquet. Beside it the same with Pillow's verify(), and the same storing paths instead of pictures. Ours are
`ingest`, `validate`, `curate` and `render`, as commands, from nothing. All get the same rows and files, in turns, on as many
processes; ours does more for its time, and what each found of the planted damage is counted. Nine rows share a picture, as
in bench/corpus.py's tasks. Processor seconds stand beside the wall clock's: on a busy machine they are the steadier.

Of the three plain ways only the first is timed more than once: it is the one that is meant; the others take long.
Fewer than three pairs are shown and not written to bench/results/plain.json.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import corpus, machine  # noqa: E402
from stages.running.section import read_params  # noqa: E402

ROWS = 20_000
ROWS_A_PICTURE = 9.2
SEED = 17
FEWEST_PAIRS = 3
PROCESSES = 2
DAMAGE = ("cut off", "zeroed", "html", "missing", "seen before", "no answer", "mark missing", "role twice")
"""What is planted, in as many rows each."""
PLANTED = 25
WAYS = {"plain": "load", "plain, verify()": "verify", "plain, paths only": "paths"}
"""What the plain ways are called, and by which word bench/plain_way.py knows them."""


def main() -> None:
    """Draw, time all in turns, count what they found, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=FEWEST_PAIRS, help="how often each way is timed")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows drawn ({ROWS})")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "plain", help="where; gigabytes, removed afterwards")
    asked = parser.parse_args()
    commit, described = machine.commit(), machine.describe()
    folder, pictures = asked.folder.resolve(), int(asked.rows / ROWS_A_PICTURE)
    damaged = drawn(folder, asked.rows, pictures)
    planted = {row for rows in damaged.values() for row in rows}
    seconds: dict[str, list[float]] = {way: [] for way in ("ours", *WAYS)}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in seconds}
    found: dict[str, dict[str, int]] = {}
    for pair in range(asked.pairs):
        for way in list(seconds)[: None if pair == 0 else 2]:
            began, spent = time.perf_counter(), children_seconds()
            kept = ours(folder) if way == "ours" else plain(folder, WAYS[way])
            seconds[way].append(round(time.perf_counter() - began, 1))
            cpu_seconds[way].append(round(children_seconds() - spent, 1))
            found[way] = {kind: sum(row not in kept for row in rows) for kind, rows in damaged.items()}
            found[way]["sound rows dropped"] = len(set(range(asked.rows)) - kept - planted)
            print(f"{way:<18}{seconds[way][-1]:>8.1f} s{cpu_seconds[way][-1]:>8.1f} s of cores  {found[way]}", flush=True)
    figures = {
        "commit": commit,
        "machine": described,
        "rows": asked.rows,
        "pictures": pictures,
        "planted of each kind": PLANTED,
        "seconds": seconds,
        "cpu seconds": cpu_seconds,
        "medians": {way: round(statistics.median(each), 1) for way, each in seconds.items()},
        "times as fast": times_as_fast(seconds),
        "times as fast by cpu seconds": times_as_fast(cpu_seconds),
        "damage found": found,
    }
    print(json.dumps({name: figures[name] for name in figures if name == "medians" or "fast" in name}, indent=2))
    shutil.rmtree(folder)
    if asked.pairs >= FEWEST_PAIRS:
        print(f"written: {machine.write('plain', figures).relative_to(ROOT)}")


def times_as_fast(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as long as ours each plain way takes: the median over the pairs it had."""
    ratios = {way: [a / b for a, b in zip(seconds[way], seconds["ours"], strict=False)] for way in seconds if way != "ours"}
    return {way: round(statistics.median(each), 2) for way, each in ratios.items()}


def children_seconds() -> float:
    """Processor seconds of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def drawn(folder: Path, count: int, pictures: int) -> dict[str, list[int]]:
    """Rows and pictures in `folder`, with damage; which rows are damaged, by kind."""
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "big" / "images"
    images.mkdir(parents=True)
    for number in range(pictures):
        (images / f"{number}.jpg").write_bytes(picture(number))
    rows = [json.loads(row) for row in corpus.flan_rows(count, pictures, SEED)]
    draw = random.Random(SEED)
    chosen = draw.sample(range(count // 2, count), PLANTED * len(DAMAGE))
    damaged = {kind: sorted(chosen[n * PLANTED : (n + 1) * PLANTED]) for n, kind in enumerate(DAMAGE)}
    for kind, numbers in damaged.items():
        for number in numbers:
            damage(kind, rows, number, images)
    (folder / "big" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    params = read_params(ROOT / "params.yaml")
    (folder / "accepted").mkdir()
    params["sample"] |= {"scenes": 60, "captions": 300, "chats": 300, "benchmark_images": 20}
    about = params["ingest"]["sources"].pop("tasks")
    big = {"format": "vision_flan", "folder": "big", "annotations": "rows.json", "instructions": None, "images": "images"}
    params["ingest"]["sources"]["big"] = {**about, **big}
    params["curate"]["train"]["sources"] = ["big"]
    # The plain way neither splits nor balances; so nothing is taken from ours for that.
    params["curate"] |= {"held_out": 0.0, "balance": False}
    params["compute"]["processes"] = PROCESSES
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    corpus.command(folder, "sample", "data/sample")
    corpus.command(folder, "base", "data/base/model")
    for source in ("captions", "chats"):
        corpus.command(folder, "ingest", source, corpus.folder_of(folder, source), f"data/ingest/{source}")
    return damaged


def damage(kind: str, rows: list[dict[str, Any]], number: int, images: Path) -> None:
    """Break one row in the way of `kind`; a broken picture is a file of its own."""
    row = rows[number]
    talk = row["conversations"]
    if kind in ("cut off", "zeroed", "html", "missing"):
        whole = (images / row["image"]).read_bytes()
        row["image"] = f"broken_{number}.jpg"
        middle = len(whole) // 2
        broken = {
            "cut off": whole[: middle + 2000],
            "zeroed": whole[:middle] + bytes(2048) + whole[middle + 2048 :],
            "html": b"<html><body>404 Not Found</body></html>",
        }
        if kind != "missing":
            (images / row["image"]).write_bytes(broken[kind])
    elif kind == "seen before":
        rows[number] = {**rows[number - len(rows) // 2], "id": row["id"]}
    elif kind == "no answer":
        talk[1]["value"] = " "
    elif kind == "mark missing":
        talk[0]["value"] = talk[0]["value"].replace("<image>", "")
    else:
        talk.insert(1, dict(talk[0], value="And?"))


def picture(number: int) -> bytes:
    """A JPEG of 640 x 480 pixels and some 80 KB: soft noise with a little grain.

    More grain would hide what is zeroed. By the standard's tables zeros read as 16 x 16 pixels in every 97 bytes; in a file of
    113 KB such a piece has as many, so that as much is read as was lost, and libjpeg remarks nothing.
    """
    noise = np.random.default_rng([SEED, number])
    small = Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    grain = noise.integers(-4, 5, (480, 640, 1), dtype=np.int16)
    shown = Image.fromarray(np.clip(np.asarray(small, dtype=np.int16) + grain, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=90)
    return out.getvalue()


def ours(folder: Path) -> set[int]:
    """Run the four stages on the large source, from nothing; the rows that are ready to learn from."""
    shutil.rmtree(folder / ".work", ignore_errors=True)
    for name in ("validate", "curate", "render", "ingest/big"):
        shutil.rmtree(folder / "data" / name, ignore_errors=True)
    corpus.command(folder, "ingest", "big", "big", "data/ingest/big")
    for stage in corpus.STAGES[1:]:
        corpus.command(folder, *corpus.words_of(stage, folder))
    ledger = pl.read_parquet(folder / "data" / "render" / "ledger.parquet", columns=["source", "row", "state"])
    return set(ledger.filter((pl.col("source") == "big") & (pl.col("state") == "ready"))["row"])


def plain(folder: Path, way: str) -> set[int]:
    """Run the plain way, in a process of its own; the rows it kept."""
    shutil.rmtree(folder / "plain", ignore_errors=True)
    words = [sys.executable, str(ROOT / "bench" / "plain_way.py"), str(folder), way, str(PROCESSES)]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT, env=quiet)
    return set(pl.read_parquet(folder / "plain" / "rows.parquet", columns=["number"])["number"])


if __name__ == "__main__":
    main()
