"""What DVC has to look after at a million pictures: `python bench/tracked_files.py [--pictures PICTURES]`.

A million rows, each with a picture of its own, go through `ingest` into a folder that a DVC repository tracks as dvc.yaml has
it: an output of `ingest`, a dependency of the three stages after it. Counted is what DVC says it tracks, timed `dvc status`:
the first one (every file is hashed), and five times over, as on any other day.

Scaled down: bytes, and they alone. A real picture has some 100 KB, and a million of them would not lie on most disks; here a
picture has 976 bytes and a shard 10 MiB, which is as many pictures a shard as 100 KB and `ingest.shard_mib: 1024` give, so
shards, rows and ledger are those of the real size. `dvc status` with its state at hand looks at names, sizes and times, and
bytes are nothing to it. Hashing is all bytes: of the first `dvc commit` and of a status without state stand here the seconds
of these bytes, and the rate.

Fewer than a million pictures are shown and not written to bench/results/tracked_files.json.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import corpus, machine  # noqa: E402
from stages.running.section import read_params  # noqa: E402

PICTURES = 1_000_000
REAL_BYTES = 100_000
"""Of a picture, where nothing is scaled."""
SHARD_MIB = 10
TIMES = 5
SEED = 17
AFTER = ("validate", "curate", "render")
"""Stages that depend on all of data/ingest."""


def main() -> None:
    """Draw, ingest, commit, time, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"how many, and as many rows ({PICTURES})")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "tracked", help="where; 4 GB, removed afterwards")
    asked = parser.parse_args()
    commit, described = machine.commit(), machine.describe()
    folder = asked.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    real_mib = prepared(folder, asked.pictures)
    figures = {
        "commit": commit,
        "machine": described,
        "command": f"python bench/tracked_files.py --pictures {asked.pictures}",
        "pictures": asked.pictures,
        "rows": asked.pictures,
        "bytes a picture": {"here": size_of(SHARD_MIB, real_mib), "stand for": REAL_BYTES},
        "ingest.shard_mib": {"here": SHARD_MIB, "stand for": real_mib},
        "ingest": asdict(corpus.command(folder, "ingest", "big", "big", "data/ingest/big")),
        **tracked(folder),
    }
    print(json.dumps(figures, indent=2))
    shutil.rmtree(folder)
    if asked.pictures >= PICTURES:
        print(f"\nwritten: {machine.write('tracked_files', figures).relative_to(ROOT)}")
    else:
        print(f"\nnot written: {asked.pictures} pictures, wanted {PICTURES}")


def prepared(folder: Path, pictures: int) -> int:
    """Rows, pictures and params in `folder`; the size of a shard where nothing is scaled, in MiB, as params.yaml has it."""
    (folder / "big").mkdir(parents=True)
    params = read_params(ROOT / "params.yaml")
    real_mib = params["ingest"]["shard_mib"]
    about = {**params["ingest"]["sources"]["tasks"], "folder": "big", "annotations": "rows.jsonl", "instructions": None}
    params["ingest"] |= {"sources": {"big": {**about, "images": "images.zip"}}, "shard_mib": SHARD_MIB}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with (folder / "big" / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(row + "\n" for row in corpus.flan_rows(pictures, pictures, SEED))
    small, size = smallest(), size_of(SHARD_MIB, real_mib)
    with zipfile.ZipFile(folder / "big" / "images.zip", "w") as packed:
        for number in range(pictures):
            packed.writestr(f"{number}.jpg", picture(small, number, size))
    return real_mib


def size_of(shard_mib: int, real_mib: int) -> int:
    """Bytes of a picture here: of its real size as large a part as a shard here is of a real one."""
    return REAL_BYTES * shard_mib // real_mib


def smallest() -> bytes:
    """A JPEG of 16 x 16 pixels."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 60)).save(out, "JPEG")
    return out.getvalue()


def picture(small: bytes, number: int, size: int) -> bytes:
    """`small` with a comment that no other number's has, `size` bytes in all."""
    said = np.random.default_rng([SEED, number]).bytes(size - len(small) - 4)
    return small[:2] + b"\xff\xfe" + (len(said) + 2).to_bytes(2, "big") + said + small[2:]


def tracked(folder: Path) -> dict[str, Any]:
    """Put `folder` under DVC and time it there.

    Raises:
        AssertionError: `dvc status` says that something changed, or misses what did.
    """
    stages: dict[str, Any] = {"ingest": {"cmd": "true", "deps": ["big"], "outs": ["data/ingest/big"]}}
    for name in AFTER:
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "summary.json").write_text(name, encoding="utf-8")
        stages[name] = {"cmd": "true", "deps": ["data/ingest"], "outs": [f"data/{name}"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    dvc(folder, "init", "--no-scm", "-q")
    # As copies of a gigabyte have no part in what is timed here, the cache takes links.
    dvc(folder, "config", "cache.type", "hardlink")
    first, _ = dvc(folder, "commit", "-f", "-q")
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]["ingest"]
    shards = {name: len(list((folder / "data/ingest/big" / name).iterdir())) for name in ("images", "examples")}
    warm = [status(folder, changed=False) for _ in range(TIMES)]
    shutil.rmtree(folder / "state")
    cold = status(folder, changed=False)
    one = next((folder / "data" / "ingest" / "big" / "images").iterdir())
    content = one.read_bytes()
    one.unlink()  # the cache has a link to it
    one.write_bytes(content[:-1] + b"?")
    changed = status(folder, changed=True)
    hashed = sum(file["size"] for file in (*lock["outs"], *lock["deps"])) / 2**20
    median = statistics.median(warm)
    return {
        "files tracked": {
            **shards,
            "others": lock["outs"][0]["nfiles"] - sum(shards.values()),
            "all": lock["outs"][0]["nfiles"],
        },
        "mib hashed here": round(hashed),
        "seconds of dvc status": {"each": warm, "median": median, "after a shard changed": changed},
        "without its state": {
            "seconds of dvc status": cold,
            "mib a second more than with it": round(hashed / max(cold - median, 0.01)),
        },
        "seconds of the first dvc commit": first,
    }


def status(folder: Path, changed: bool) -> float:
    """Seconds of `dvc status`, which must see that the output of `ingest` changed, or nothing."""
    seconds, said = dvc(folder, "status")
    found = "up to date" not in said
    assert found == changed, f"dvc status should say that {'a shard' if changed else 'nothing'} changed, but says:\n{said}"
    return seconds


def dvc(folder: Path, *words: str) -> tuple[float, str]:
    """Seconds of a command of DVC, with its state kept in `folder`, and what it printed."""
    quiet = {**os.environ, "DVC_SITE_CACHE_DIR": str(folder / "state"), "DVC_NO_ANALYTICS": "1"}
    line = [sys.executable, "-m", "dvc", *words]
    began = time.perf_counter()
    done = subprocess.run(line, cwd=folder, env=quiet, check=True, capture_output=True, text=True)
    return round(time.perf_counter() - began, 2), done.stdout


if __name__ == "__main__":
    main()
