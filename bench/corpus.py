"""The data half at full size: `python bench/corpus.py [SHAPE …] [--folder FOLDER]`.

Draws corpora of the real releases' shapes and runs ingest, validate, curate and render on each, as commands, one after the
other: seconds and the most memory that a stage's processes had at once (their resident sizes added up, so that what they share
counts several times). Pictures are read in a first run that is not timed, since what a nightly run meets are pictures it
knows; the rows are all new to it. Then 1 % more rows are added, and the same is timed again.

Shapes: `tasks_100k`, `tasks_400k`, `tasks_1660k` (Vision-Flan: 187 tasks, short answers, nine rows a picture), `svit_4200k`
(SVIT's raw files: thirty-eight rows a picture). Results stand in bench/results/corpus.json, a shape an entry.
"""

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.corpus import shards  # noqa: E402
from stages.running.section import read_params  # noqa: E402

SEED = 17
TASKS = 187
SMALL = 1500
"""Rows of each of the two other sources, which every chain needs."""
STAGES = ("ingest", "validate", "curate", "render")
OF_PICTURES = ("pictures", "images")
"""What is kept from run to run of pictures, and not of rows."""
TEXT = (
    "the a of on in with near behind under above left right small large red blue green old young open round wooden street "
    "table window person woman man child dog cat car bus train bottle plate chair sign tree building sky water field shirt "
    "hat bag phone book clock what which how many where is are does can you see describe picture image colour shape kind "
    "number name place object animal activity scene holding wearing standing sitting looking walking playing made used most "
    "likely because suggests appears between several two three following options answer question"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Shape:
    """What is drawn."""

    rows: int
    pictures: int
    raw: bool
    """SVIT's raw files; else Vision-Flan's release."""


SHAPES = {
    "tasks_5k": Shape(5_000, 540, False),
    "tasks_100k": Shape(100_000, 10_800, False),
    "tasks_400k": Shape(400_000, 43_300, False),
    "tasks_1660k": Shape(1_660_000, 180_000, False),
    "svit_4200k": Shape(4_200_000, 110_000, True),
}


@dataclass
class Run:
    """What one stage took, or several together."""

    seconds: float
    peak_mib: float
    cpu_seconds: float


@dataclass
class Measured:
    """One shape's figures."""

    rows: int
    pictures: int
    first_picture_pass: Run | None = None
    stages: dict[str, Run] = field(default_factory=dict)
    all_stages: Run | None = None
    one_percent_more: dict[str, Run] = field(default_factory=dict)
    more_all: Run | None = None
    states: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Draw, run, write, show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("shapes", nargs="*", default=["tasks_100k"], choices=SHAPES, help="what to draw (tasks_100k)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "bench", help="where; gigabytes, removed afterwards")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    asked = parser.parse_args()
    path = ROOT / "bench" / "results" / "corpus.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in asked.shapes:
        figures[name] = {
            "commit": machine.commit(),
            "machine": machine.describe(),
            **asdict(measured(SHAPES[name], asked.folder / name)),
        }
        show(name, figures[name])
        if not asked.keep:
            shutil.rmtree(asked.folder / name)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {path.relative_to(ROOT)}")


def measured(shape: Shape, folder: Path) -> Measured:
    """Draw `shape` in `folder`, run the stages on it, add rows, run them again."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = prepared(shape, folder)
    found = Measured(shape.rows, shape.pictures)
    found.first_picture_pass = run_stage("ingest", folder, ["big"])
    forget_rows(folder)
    for stage in STAGES:
        found.stages[stage] = run_stage(stage, folder, sources)
    found.all_stages = together(found.stages.values())
    found.states = states(folder)
    add_rows(shape, folder)
    for stage in STAGES:
        found.one_percent_more[stage] = run_stage(stage, folder, sources)
    found.more_all = together(found.one_percent_more.values())
    return found


def forget_rows(folder: Path) -> None:
    """Remove all that was written or kept, but for what is known of pictures."""
    shutil.rmtree(folder / "data" / "ingest")
    for kept in (folder / ".work" / "memo").glob("*"):
        if kept.is_dir() and not kept.name.startswith(OF_PICTURES):
            shutil.rmtree(kept)


def prepared(shape: Shape, folder: Path) -> list[str]:
    """Params, the embedded sources and benchmarks, a base model, and the large source `big`; the names of the sources."""
    params: dict[str, Any] = read_params(ROOT / "params.yaml")
    (folder / "accepted").mkdir(exist_ok=True)
    params["sample"] |= {"scenes": 60, "captions": SMALL, "chats": SMALL, "benchmark_images": 20}
    about = params["ingest"]["sources"].pop("tasks")
    big = {**about, "format": "vision_flan", "folder": "big", "annotations": "*.jsonl", "instructions": None}
    if shape.raw:
        big |= {"format": "svit", "annotations": "*.json", "origin": "synthesized"}
    params["ingest"]["sources"]["big"] = big
    params["curate"]["train"]["sources"] = ["big"]
    params["curate"]["train"]["rows_per_task"] = 10_000_000 if shape.raw else 10_000
    params["curate"]["held_out"] = 0.01
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    command(folder, "sample", "data/sample")
    command(folder, "base", "data/base/model")
    draw_pictures(shape, folder / "big")
    if shape.raw:
        for kind in ("conversation", "complex_reasoning", "referring_qa", "detail_description"):
            with (folder / "big" / f"{kind}.json").open("w", encoding="utf-8") as file:
                file.write("[" + ",\n".join(raw_objects(kind, shape.pictures)) + "]\n")
    else:
        with (folder / "big" / "a_first.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(row + "\n" for row in flan_rows(shape.rows, shape.pictures, SEED))
    return [*params["ingest"]["sources"]]


def add_rows(shape: Shape, folder: Path) -> None:
    """One row for each hundred, in a file that stands behind the others; of raw SVIT, of pictures' boxes."""
    rows = shape.rows // 100
    if shape.raw:
        objects = [
            json.dumps({"image_id": n % shape.pictures, "conversations": [block(1, f"referring more {n}", SEED)]})
            for n in range(rows)
        ]
        (folder / "big" / "referring_qa_more.json").write_text("[" + ",\n".join(objects) + "]\n", encoding="utf-8")
    else:
        (folder / "big" / "b_more.jsonl").write_text(
            "\n".join(flan_rows(rows, shape.pictures, SEED + 1)) + "\n", encoding="utf-8"
        )


def flan_rows(rows: int, pictures: int, seed: int) -> Iterator[str]:
    """Rows as Vision-Flan's release has them: an instruction, often with input or options, and a short answer."""
    draw = random.Random(seed)
    instructions = [[sentence(draw, 25) for _ in range(10)] for _ in range(TASKS)]
    for number in range(rows):
        task = number % TASKS
        words = " ".join(draw.choices(WORDS, k=12))
        if task % 4 == 0:
            question, answer = f"Is there a {words}?", draw.choice(("Yes", "No"))
        elif task % 4 == 1:
            options = [" ".join(draw.choices(WORDS, k=2)) for _ in range(4)]
            question = f"{words}?\nOptions: " + " ".join(
                f"({letter}) {option}" for letter, option in zip("abcd", options, strict=True)
            )
            answer = f"(b) {options[1]}"
        else:
            question, answer = f"{words}?", " ".join(draw.choices(WORDS, k=draw.choice((1, 2, 3, 4, 5, 8, 30))))
        yield json.dumps(
            {
                "id": f"task{task}+{number}",
                "image": f"{(number * 7919) % pictures}.jpg",
                "task_name": f"dataset{task // 3}+task{task}",
                "conversations": [
                    {"from": "human", "value": f"{draw.choice(instructions[task])}\n\n{question}\n<image>"},
                    {"from": "gpt", "value": answer},
                ],
            }
        )


def raw_objects(kind: str, pictures: int) -> Iterator[str]:
    """Objects of one of SVIT's raw files: of 38 rows a picture, 4 talks, 20 of reasoning, 13 with boxes, a detail."""
    blocks, turns = {
        "conversation": (4, 5),
        "complex_reasoning": (20, 1),
        "referring_qa": (13, 1),
        "detail_description": (1, 1),
    }[kind]
    for picture in range(pictures):
        talks = [block(turns, f"{kind} {picture} {number}", picture * 64 + number) for number in range(blocks)]
        yield json.dumps({"image_id": picture, "conversations": talks})


def block(turns: int, name: str, seed: int) -> dict[str, Any]:
    """One of SVIT's conversations."""
    draw = random.Random(f"{name} {seed}")
    content = []
    for _ in range(turns):
        question, answer = (
            " ".join(draw.choices(WORDS, k=10)),
            " ".join(draw.choices(WORDS, k=25 if "detail" not in name else 90)),
        )
        if "referring" in name:
            answer = f"<st>{answer}<ed> [0.123, 0.2, 0.5, 0.75]"
        content += [{"from": "user", "value": f"{question}?"}, {"from": "gpt", "value": f"{answer}."}]
    return {"content": content}


def sentence(draw: random.Random, words: int) -> str:
    """Some words and a full stop."""
    return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."


def draw_pictures(shape: Shape, folder: Path) -> None:
    """A zip of small JPEGs of some hundred sizes, no two alike, named as the format's rows name them."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [range(first, min(first + 2000, shape.pictures)) for first in range(0, shape.pictures, 2000)]
    with zipfile.ZipFile(folder / "images.zip", "w") as packed, ProcessPoolExecutor(2) as pool:
        for piece, drawn in zip(pieces, pool.map(pictures_of, pieces), strict=True):
            for number, content in zip(piece, drawn, strict=True):
                packed.writestr(f"images/{number}.jpg", content)


def pictures_of(numbers: range) -> list[bytes]:
    """Soft noise, of which every picture's is another."""
    made = []
    for number in numbers:
        noise = np.random.default_rng([SEED, number])
        width, height = (160, int(noise.integers(90, 160))) if noise.random() < 0.7 else (int(noise.integers(90, 160)), 160)
        small = Image.fromarray(noise.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=75)
        made.append(out.getvalue())
    return made


def run_stage(stage: str, folder: Path, sources: list[str]) -> Run:
    """A stage on what the ones before it wrote, as dvc.yaml has it; `ingest` once for each source."""
    if stage == "ingest":
        return together(command(folder, "ingest", name, folder_of(folder, name), f"data/ingest/{name}") for name in sources)
    return command(folder, *words_of(stage, folder))


def folder_of(folder: Path, source: str) -> str:
    """Where a source lies."""
    return read_params(folder / "params.yaml")["ingest"]["sources"][source]["folder"]


def words_of(stage: str, folder: Path) -> list[str]:
    """The words of a stage's command in dvc.yaml, with the params it names filled in."""
    line = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["cmd"]
    params = read_params(folder / "params.yaml")
    words = line.removeprefix("python -m stages.").split()
    return [str(reduce(getitem, word[2:-1].split("."), params)) if word.startswith("${") else word for word in words]


def command(folder: Path, *words: str) -> Run:
    """`python -m stages.…` in `folder`, timed; exits if it fails."""
    line = [sys.executable, "-m", f"stages.{words[0]}", *words[1:]]
    began, most, cpu = time.perf_counter(), 0, 0.0
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        process = psutil.Popen(
            line, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            size, spent = looked_at(process)
            most, cpu = max(most, size), max(cpu, spent)
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"`{' '.join(line)}` ended with status {process.returncode}:\n{(folder / 'log.txt').read_text()[-2000:]}")
    run = Run(round(time.perf_counter() - began, 1), round(most / 2**20), round(cpu, 1))
    print(f"  {' '.join(words[:2]):<40}{run.seconds:>8.1f} s {run.peak_mib:>7.0f} MiB", flush=True)
    return run


def looked_at(process: psutil.Popen) -> tuple[int, float]:
    """Resident bytes and processor seconds of a process and its children, now."""
    size, cpu = 0, 0.0
    for one in [process, *children(process)]:
        try:
            size += one.memory_info().rss
            times = one.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return size, cpu


def children(process: psutil.Popen) -> list[psutil.Process]:
    """Those of a process that may be ending."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def together(runs: Any) -> Run:
    """Of several runs one after the other."""
    each = list(runs)
    total = sum(run.seconds for run in each), max(run.peak_mib for run in each), sum(run.cpu_seconds for run in each)
    return Run(round(total[0], 1), total[1], round(total[2], 1))


def states(folder: Path) -> dict[str, int]:
    """How many rows of each stage's ledger ended how; and the trees."""
    import polars as pl

    found: dict[str, int] = {}
    for stage in STAGES[1:]:
        ledger = pl.read_parquet(folder / "data" / stage / "ledger.parquet", columns=["state"])
        for state, rows in sorted(ledger["state"].value_counts().iter_rows()):
            found[f"{stage}: {state}"] = rows
    found["trees of train"] = shards.rows(folder / "data" / "render" / "train")
    return found


def show(name: str, figures: dict[str, Any]) -> None:
    """Print one shape's table."""
    print(f"\n{name}: {figures['rows']:,} rows, {figures['pictures']:,} pictures")
    for stage in (*STAGES, "all"):
        first = figures["stages"][stage] if stage != "all" else figures["all_stages"]
        more = figures["one_percent_more"][stage] if stage != "all" else figures["more_all"]
        print(f"{stage:<10}{first['seconds']:>9.1f} s{first['peak_mib']:>8.0f} MiB   with 1 % more {more['seconds']:>8.1f} s")
    print(json.dumps(figures["states"]))


if __name__ == "__main__":
    main()
