"""Ingest's pass over pictures against plain ways: `python bench/pictures.py [ROUNDS]`, on pictures it generates.

Ours reads each file, takes its sha256, decodes it to its last code, takes its perceptual hash, and stores it. In turns with it:
libjpeg alone, strict and at an eighth of the size, of the same files in memory, which is the floor, as nobody can tell a whole
JPEG from a cut one with less; `datasets.map` with `Image` decode and `to_parquet`, in as many processes; and a loop of Pillow,
sha256 and imagehash in one. Each has as many cores as `--threads` says, but for the last.

Then the damage table: which of the same pictures, damaged, each way refuses; and that it refuses none that is whole.
Fewer than five rounds are shown and not written to bench/results/pictures.json.
"""

import argparse
import hashlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import simplejpeg
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.corpus.decoding import MAX_SIDE, look  # noqa: E402
from stages.corpus.images import ImageWriter  # noqa: E402
from stages.corpus.kept import Kept  # noqa: E402
from stages.formats.draft import UnreadableError  # noqa: E402
from stages.formats.pictures import open_pictures  # noqa: E402
from stages.running.compute import Compute, use  # noqa: E402
from stages.running.progress import progress  # noqa: E402

SEED = 17
SIZE = (640, 480)
SHARD_MIB = 1024
SMALL_SHARD_MIB = 8
"""Of the runs after a first one, so that these few pictures are several shards too."""
FEWEST_ROUNDS = 5
DAMAGED = 100
"""Pictures in each row of the damage table."""


def main() -> None:
    """Draw pictures, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rounds", type=int, nargs="?", default=5, help="how often each way is timed (5)")
    parser.add_argument("--pictures", type=int, default=2000, help="how many pictures (2000)")
    parser.add_argument("--threads", type=int, default=2, help="threads, or processes, of each way (2)")
    asked = parser.parse_args()
    described = machine.describe()
    use(Compute(engine="local", address=None, processes=asked.threads))
    with tempfile.TemporaryDirectory() as folder:
        names = draw(Path(folder) / "pictures", asked.pictures)
        ways: dict[str, Way] = {
            "ours": ours,
            "libjpeg_alone": libjpeg_alone,
            "datasets_map": datasets_map,
            "pillow_sha256_imagehash": pillow_sha256_imagehash,
        }
        figures = {
            "commit": machine.commit(),
            "machine": described,
            "command": f"python bench/pictures.py {asked.rounds} --pictures {asked.pictures} --threads {asked.threads}",
            "pictures": asked.pictures,
            "mean_bytes": round(statistics.fmean((Path(folder) / "pictures" / name).stat().st_size for name in names)),
            "threads": asked.threads,
            "rounds": asked.rounds,
            **compare(ways, Path(folder), names, asked.rounds, asked.threads),
            "later_runs_pictures_per_second": second_run(Path(folder), names),
            "damage": damage(Path(folder) / "pictures", names[:DAMAGED]),
            "hash": hashes(Path(folder) / "pictures", names),
        }
    figures["load_after"] = round(os.getloadavg()[0], 2)
    show(figures)
    if asked.rounds >= FEWEST_ROUNDS:
        print(f"\nwritten: {machine.write('pictures', figures).relative_to(ROOT)}")
    else:
        print(f"\nnot written: {asked.rounds} rounds, wanted at least {FEWEST_ROUNDS}")


def draw(folder: Path, number: int) -> list[str]:
    """Write so many JPEGs with photographs' statistics, smooth shapes of all sizes and a little noise; their names."""
    folder.mkdir()
    names = [f"{one:06d}.jpg" for one in range(number)]
    for one, name in enumerate(progress(names, "draw", "picture")):
        picture(one).save(folder / name, quality=90)
    return names


def picture(number: int) -> Image.Image:
    """A picture of `SIZE` that hangs on its number alone: every tenth is drawn, those between are the same, moved."""
    return Image.fromarray(np.roll(_drawn(number // 10), (37 * (number % 10), 61 * (number % 10)), axis=(0, 1)))


@lru_cache(maxsize=1)
def _drawn(number: int) -> np.ndarray:
    chance = np.random.default_rng([SEED, number])
    width, height = SIZE
    planes = []
    for _ in range(3):
        plane = chance.standard_normal((height, width), np.float32) * 1.8
        for step in (2, 8, 32, 128):
            rough = chance.standard_normal((height // step + 2, width // step + 2), np.float32)
            plane += np.asarray(Image.fromarray(rough).resize(SIZE, Image.Resampling.BICUBIC)) * step**0.5
        planes.append(plane)
    pixels = np.stack(planes, axis=2)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low) * 255).astype(np.uint8)


def ours(folder: Path, names: Sequence[str], threads: int) -> None:
    """As `ingest` does it, the first time."""
    with open_pictures(folder / "pictures") as pictures, ImageWriter(folder / "out", SHARD_MIB) as store:
        store.gather(pictures.read, names, UnreadableError)


def libjpeg_alone(folder: Path, names: Sequence[str], threads: int) -> None:
    """Decode at an eighth of the size, strictly, and throw away; see `compare` for the reading."""

    def decode(content: bytes) -> None:
        simplejpeg.decode_jpeg(content, "GRAY", min_width=60, min_height=60, strict=True)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, CONTENTS))


CONTENTS: list[bytes] = []
"""The pictures in memory, so that the floor has nothing to do with disks."""


def datasets_map(folder: Path, names: Sequence[str], threads: int) -> None:
    """The plain way with the library `datasets`: decode, hash, map, write."""
    import datasets

    datasets.disable_progress_bars()
    paths = [str(folder / "pictures" / name) for name in names]
    given = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    made = given.map(_of_row, num_proc=threads, load_from_cache_file=False, cache_file_name=str(folder / "map.arrow"))
    made.to_parquet(folder / "out" / "images.parquet")


def _of_row(row: dict[str, Any]) -> dict[str, Any]:
    image = row["image"]
    content = Path(image.filename).read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": image.width,
        "height": image.height,
        "phash": str(imagehash.phash(image)),
    }


def pillow_sha256_imagehash(folder: Path, names: Sequence[str], threads: int) -> None:
    """The plainest way: a loop, and nothing stored."""
    for name in names:
        content = (folder / "pictures" / name).read_bytes()
        image = Image.open(io.BytesIO(content))
        image.load()
        hashlib.sha256(content).hexdigest()
        imagehash.phash(image)


Way = Callable[[Path, Sequence[str], int], None]


def compare(ways: dict[str, Way], folder: Path, names: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """Time all ways `rounds` times, in turns; who goes first changes too. The files are in the system's memory for all.

    Each goes once before, untimed: what a process does only once (imports, threads, the disk's first blocks) is in no rate.
    """
    CONTENTS[:] = [(folder / "pictures" / name).read_bytes() for name in names]
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for number in progress(range(-1, rounds), "rounds", "round"):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name in order:
            shutil.rmtree(folder / "out", ignore_errors=True)
            (folder / "out").mkdir()
            os.sync()  # what another way left for the disk to write is not this one's work
            began, spent = time.perf_counter(), sum(os.times()[:4])
            ways[name](folder, names, threads)
            seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - spent
            if number >= 0:
                rates[name].append(len(names) / seconds)
                costs[name].append(cpu / len(names))
    CONTENTS.clear()
    return {
        # Of this process and those it started and waited for. Where other work shares the cores, the fairer figure of the two.
        "cpu_ms_per_picture": {name: round(1000 * statistics.median(found), 3) for name, found in costs.items()},
        "libjpegs_cpu_to_ours": spread(
            [floor / mine for mine, floor in zip(costs["ours"], costs["libjpeg_alone"], strict=True)]
        ),
        "pictures_per_second": {name: round(statistics.median(found)) for name, found in rates.items()},
        "ours_times_as_fast_as": {
            name: spread([mine / theirs for mine, theirs in zip(rates["ours"], found, strict=True)])
            for name, found in rates.items()
            if name != "ours"
        },
    }


def second_run(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Pictures a second of runs after a first one, with one in a hundred new behind or among the others, or none."""
    new = max(len(names) // 100, 1)
    among = [name for number, name in enumerate(names) if number % 100 != min(50, new)]
    runs = {"first": names[:-new], "new_ones_behind": names, "none_new": names, "fewer": among, "new_ones_among": names}
    rates = {}
    for run, asked in runs.items():
        shutil.rmtree(folder / "out", ignore_errors=True)
        began = time.perf_counter()
        with (
            open_pictures(folder / "pictures") as pictures,
            ImageWriter(folder / "out", SMALL_SHARD_MIB, Kept(folder / "kept", pictures.stamp)) as store,
        ):
            store.gather(pictures.read, asked, UnreadableError)
        rates[run] = round(len(asked) / (time.perf_counter() - began))
    return rates


def damage(folder: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The share of `names`' pictures that each way refuses, by what was done to them."""
    chance = np.random.default_rng(SEED)
    progressive = partial(_again, quality=90, progressive=True)
    # At quality 96 many macroblocks have as many bits as one of zeros, 772: so the decoder counts no block too many or few.
    kinds: dict[str, Callable[[bytes], bytes]] = {
        "none": lambda content: content,
        "cut_at_a_half": lambda content: content[: len(content) // 2],
        "last_100_bytes_missing": lambda content: content[:-100],
        "2_kb_zeroed": lambda content: _zeroed(content, int(chance.integers(1000, len(content) - 2200))),
        "2_kb_zeroed_at_quality_96": lambda content: _zeroed(again := _again(content, quality=96), len(again) // 2),
        "3_bits_flipped": lambda content: _flipped(content, chance.integers(8000, 8 * len(content) - 16, 3).tolist()),
        "progressive_cut_at_a_half": lambda content: (again := progressive(content))[: len(again) // 2],
        "progressive_2_kb_zeroed": lambda content: _zeroed(again := progressive(content), len(again) // 2),
        "progressive": progressive,
        "bytes_after_its_end": lambda content: content + bytes(500),
    }
    refusing = {"pillow_verify": _by_verify, "pillow_load": _by_load, "ours": _by_us}
    table = {}
    for kind, damaged in kinds.items():
        made = [damaged((folder / name).read_bytes()) for name in names]
        table[kind] = {way: round(statistics.fmean(map(refuses, made)), 3) for way, refuses in refusing.items()}
    return table


def _zeroed(content: bytes, place: int) -> bytes:
    return content[:place] + bytes(2048) + content[place + 2048 :]


def _flipped(content: bytes, places: Sequence[int]) -> bytes:
    changed = bytearray(content)
    for place in places:
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _again(content: bytes, quality: int, progressive: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).save(buffer, "JPEG", quality=quality, progressive=progressive)
    return buffer.getvalue()


def _by_verify(content: bytes) -> bool:
    return _raises(lambda: Image.open(io.BytesIO(content)).verify())


def _by_load(content: bytes) -> bool:
    return _raises(lambda: Image.open(io.BytesIO(content)).load())


def _by_us(content: bytes) -> bool:
    return not look(content, MAX_SIDE).whole


def _raises(work: Callable[[], Any]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except Exception:
        return True
    return False


def hashes(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """How many of the 64 bits of a hash differ from imagehash's of the whole picture."""
    bits = []
    for name in names:
        content = (folder / name).read_bytes()
        found = look(content, MAX_SIDE).phash
        assert found is not None, f"{name} is whole"
        bits.append((found ^ int(str(imagehash.phash(Image.open(io.BytesIO(content)))), 16)).bit_count())
    return {"mean_bits": round(statistics.fmean(bits), 3), "most_bits": max(bits), "same": round(bits.count(0) / len(bits), 3)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{figures['pictures']} JPEGs of {SIZE}, {figures['mean_bytes']:,} bytes each, {figures['threads']} threads\n")
    for name, rate in figures["pictures_per_second"].items():
        ratio = figures["ours_times_as_fast_as"].get(name)
        cost = figures["cpu_ms_per_picture"][name]
        print(
            f"{name:<26}{rate:>8,} a second, {cost} ms of CPU each"
            + (f"   ours is {ratio['median']} times as fast" if ratio else "")
        )
    for name, rate in figures["later_runs_pictures_per_second"].items():
        print(f"{name:<42}{rate:>10,}")
    print(f"\n{'refused':<28}" + "".join(f"{way:>15}" for way in figures["damage"]["none"]))
    for kind, row in figures["damage"].items():
        print(f"{kind:<28}" + "".join(f"{share:>15}" for share in row.values()))
    print(f"\nhash: {figures['hash']}")


if __name__ == "__main__":
    machine.as_make_runs()
    main()
