"""The data half against the plain way: `python bench/plain.py [PAIRS]`.

The plain way is a script as many write it: `datasets` with `map` in two processes, Pillow for the pictures, the processor for
the text. It opens every row's picture to its last pixel, drops rows whose picture is broken or missing and rows it has seen
before, writes the chat template's text as token ids with the prompt masked, and stores rows and pictures as Parquet. Ours are
`ingest`, `validate`, `curate` and `render`, as commands, from nothing. Both get the same rows and files, in turns, on as many
processes; ours does more for its time, and what each found of the planted damage is counted.

Fewer than three pairs are shown and not written to bench/results/plain.json.
"""

import argparse
import hashlib
import io
import json
import os
import random
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

ROWS, PICTURES = 20_000, 4_000
SEED = 17
FEWEST_PAIRS = 3
PROCESSES = 2
DAMAGE = ("cut off", "zeroed", "html", "missing", "seen before", "no answer", "mark missing", "role twice")
"""What is planted, in as many rows each."""
PLANTED = 25


def main() -> None:
    """Draw, time both in turns, count what they found, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=FEWEST_PAIRS, help="how often each way is timed")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "plain", help="where; gigabytes, removed afterwards")
    asked = parser.parse_args()
    described = machine.describe()
    folder = asked.folder.resolve()
    damaged = drawn(folder)
    times: dict[str, list[float]] = {"ours": [], "plain": [], "plain, verify()": []}
    found: dict[str, dict[str, int]] = {}
    for _ in range(asked.pairs):
        for way in times:
            seconds, gone = ours(folder) if way == "ours" else plain(folder, way.endswith("verify()"))
            times[way].append(seconds)
            found[way] = {kind: sum(row in gone for row in rows) for kind, rows in damaged.items()}
            found[way]["sound rows dropped"] = len(gone - {row for rows in damaged.values() for row in rows})
            print(f"{way:<18}{seconds:>8.1f} s  {found[way]}", flush=True)
    ratios = {way: [a / b for a, b in zip(times[way], times["ours"], strict=True)] for way in times if way != "ours"}
    figures = {
        "machine": described,
        "rows": ROWS,
        "pictures": PICTURES,
        "planted of each kind": PLANTED,
        "seconds": times,
        "medians": {way: round(statistics.median(each), 1) for way, each in times.items()},
        "times as fast": {way: round(statistics.median(each), 2) for way, each in ratios.items()},
        "damage found": found,
    }
    print(json.dumps({name: figures[name] for name in ("medians", "times as fast")}, indent=2))
    shutil.rmtree(folder)
    if asked.pairs >= FEWEST_PAIRS:
        print(f"written: {machine.write('plain', figures).relative_to(ROOT)}")


def drawn(folder: Path) -> dict[str, list[int]]:
    """Rows and pictures in `folder`, with damage; which rows are damaged, by kind."""
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "big" / "images"
    images.mkdir(parents=True)
    for number in range(PICTURES):
        (images / f"{number}.jpg").write_bytes(picture(number))
    rows = [json.loads(row) for row in corpus.flan_rows(ROWS, PICTURES, SEED)]
    draw = random.Random(SEED)
    chosen = draw.sample(range(ROWS // 2, ROWS), PLANTED * len(DAMAGE))
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
        rows[number] = {**rows[number - ROWS // 2], "id": row["id"]}
    elif kind == "no answer":
        talk[1]["value"] = " "
    elif kind == "mark missing":
        talk[0]["value"] = talk[0]["value"].replace("<image>", "")
    else:
        talk.insert(1, dict(talk[0], value="And?"))


def picture(number: int) -> bytes:
    """A JPEG of 640 x 480 pixels and some 80 KB: soft noise with a little grain."""
    noise = np.random.default_rng([SEED, number])
    small = Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    grain = noise.integers(-9, 10, (480, 640, 1), dtype=np.int16)
    shown = Image.fromarray(np.clip(np.asarray(small, dtype=np.int16) + grain, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=90)
    return out.getvalue()


def ours(folder: Path) -> tuple[float, set[int]]:
    """Seconds of the four stages on the large source, from nothing; the rows that are not ready to learn from."""
    shutil.rmtree(folder / ".work", ignore_errors=True)
    for name in ("validate", "curate", "render", "ingest/big"):
        shutil.rmtree(folder / "data" / name, ignore_errors=True)
    began = time.perf_counter()
    corpus.command(folder, "ingest", "big", "big", "data/ingest/big")
    for stage in corpus.STAGES[1:]:
        corpus.command(folder, *corpus.words_of(stage, folder))
    seconds = time.perf_counter() - began
    ledger = pl.read_parquet(folder / "data" / "render" / "ledger.parquet", columns=["source", "row", "state"])
    ready = ledger.filter((pl.col("source") == "big") & (pl.col("state") == "ready"))["row"]
    return seconds, set(range(ROWS)) - set(ready)


def plain(folder: Path, verify: bool) -> tuple[float, set[int]]:
    """Seconds of the plain way, in a process of its own; the rows it dropped."""
    shutil.rmtree(folder / "plain", ignore_errors=True)
    words = [sys.executable, str(Path(__file__)), "--way", str(folder), "verify" if verify else "load"]
    began = time.perf_counter()
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT, env=quiet)
    seconds = time.perf_counter() - began
    kept = pl.read_parquet(folder / "plain" / "rows.parquet", columns=["number"])["number"]
    return seconds, set(range(ROWS)) - set(kept)


def the_plain_way(folder: Path, verify: bool) -> None:
    """What `plain` runs."""
    from datasets import Dataset
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder / "data" / "base" / "model")
    images = folder / "big" / "images"
    rows = json.loads((folder / "big" / "rows.json").read_text(encoding="utf-8"))
    columns = {"number": list(range(len(rows))), **{name: [row[name] for row in rows] for name in ("image", "conversations")}}
    data = Dataset.from_dict(columns)

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        content: list[bytes | None] = []
        digests: list[str] = []
        for name in batch["image"]:
            try:
                raw = (images / name).read_bytes()
                with Image.open(io.BytesIO(raw)) as shown:
                    if verify:
                        shown.verify()
                    else:
                        shown.convert("RGB")
            except (OSError, SyntaxError):
                content.append(None)
                digests.append("")
                continue
            content.append(raw)
            digests.append(hashlib.sha256(raw).hexdigest())
        return {"bytes": content, "sha256": digests}

    def messages(talk: list[dict[str, str]]) -> list[dict[str, Any]]:
        said = []
        for turn in talk:
            words: list[dict[str, str]] = [{"type": "text", "text": turn["value"].replace("<image>", "").strip()}]
            if "<image>" in turn["value"]:
                words.insert(0, {"type": "image"})
            said.append({"role": "user" if turn["from"] == "human" else "assistant", "content": words})
        return said

    def tokens(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        talks = [messages(talk) for talk in batch["conversations"]]
        whole = [processor.apply_chat_template(talk, tokenize=False) for talk in talks]
        asked = [processor.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True) for talk in talks]
        ids = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        before = processor.tokenizer(asked, add_special_tokens=False)["input_ids"]
        labels = [[-100] * len(prompt) + one[len(prompt) :] for one, prompt in zip(ids, before, strict=True)]
        return {"input_ids": ids, "labels": labels}

    data = data.map(read, batched=True, batch_size=100, num_proc=PROCESSES)
    data = data.filter(lambda digest: digest != "", input_columns="sha256")
    seen: set[tuple[str, str]] = set()
    fresh = []
    for digest, talk in zip(data["sha256"], data["conversations"], strict=True):
        key = (digest, json.dumps(talk))
        fresh.append(key not in seen)
        seen.add(key)
    data = data.select([number for number, new in enumerate(fresh) if new])
    data = data.map(tokens, batched=True, batch_size=1000, num_proc=PROCESSES)
    (folder / "plain").mkdir()
    data.to_parquet(folder / "plain" / "rows.parquet")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        the_plain_way(Path(sys.argv[2]), sys.argv[3] == "verify")
    else:
        main()
