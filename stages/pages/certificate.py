"""The certificate as a page: what was proved of which rows, why others were refused, and rows of each task token by token."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from tokenizers import Tokenizer

from stages.corpus.pictures import read_images
from stages.pages.masks import Shown, shown
from stages.pages.page import write_page
from stages.pages.pictures import Picture, as_jpeg

A_TASK = 2
"""Rows of a task that are shown, of one where there are more than `MANY_TASKS`."""
MANY_TASKS = 60
MOST_TASKS = 240
"""Of one tuning stage; of more, some are drawn."""
LONGEST_SHOWN = 120
"""Tokens of one row that are shown."""
THUMB = 72
"""Longest side of a picture, in pixels."""
REFUSED_SHOWN = 3
"""Rows that are named for each reason why rows were refused."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of the rows of one tuning stage."""

    stage: str
    rows: Mapping[str, int]
    """By state."""
    failed_checks: Mapping[str, int]
    """Rows that failed each check first."""
    sizes: Mapping[str, int]
    """As `tree.sizes`."""
    samples: pa.Table
    """Rows that may be shown, each task's in the order in which they are drawn; columns of `tree.plant` and `draw`."""
    refused: pa.Table
    """Rows that may be named, of each reason: source, row, task, state, reason."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of one stage that one check, or the limit, refused; with some of them."""

    stage: str
    name: str
    state: str
    rows: int
    named: Sequence[Mapping[str, str | int]]


def write_certificate(
    path: Path, proofs: Sequence[Proof], checks: Mapping[str, str], stores: Sequence[Path], tokenizer: Tokenizer
) -> None:
    """Write the page about `proofs`; `checks` says what each check proves, pictures come from the image stores in `stores`."""
    cards = {proof.stage: _cards(proof, tokenizer) for proof in proofs}
    wanted = {card.image for of_stage in cards.values() for card in of_stage if card.image}
    write_page(
        path,
        "certificate.html",
        proofs=proofs,
        checks=checks,
        failed={name: sum(proof.failed_checks.get(name, 0) for proof in proofs) for name in checks},
        cards=cards,
        tasks=sorted({card.task for of_stage in cards.values() for card in of_stage}),
        pictures={digest: _thumb(content) for digest, content in read_images(stores, wanted)},
        refusals=[refusal for proof in proofs for refusal in _refusals(proof)],
        total={state: sum(proof.rows.get(state, 0) for proof in proofs) for state in ("ready", "too_long", "uncertified")},
    )


def _cards(proof: Proof, tokenizer: Tokenizer) -> list[Shown]:
    """The rows to show, by task."""
    of_task: dict[str, list[dict[str, Any]]] = {}
    for row in proof.samples.to_pylist():
        of_task.setdefault(row["task"], []).append(row)
    tasks = sorted(sorted(of_task, key=lambda task: of_task[task][0]["draw"])[:MOST_TASKS])
    some = A_TASK if len(tasks) <= MANY_TASKS else 1
    return [_card(proof.stage, row, tokenizer) for task in tasks for row in of_task[task][:some]]


def _card(stage: str, row: dict[str, Any], tokenizer: Tokenizer) -> Shown:
    prefix = np.frombuffer(row["prefix"], np.int32).tolist()
    return shown(stage, {"images": row["images"], "prefix": prefix, "branches": [row]}, 0, tokenizer, LONGEST_SHOWN)


def _refusals(proof: Proof) -> list[Refusal]:
    """Why rows were refused, the most frequent reason first."""
    named: dict[tuple[str, str], list[Mapping[str, str | int]]] = {}
    for row in proof.refused.to_pylist():
        name, _, detail = row["reason"].partition(": ")
        named.setdefault((row["state"], name), []).append({**row, "detail": detail})
    counts = {("uncertified", name): rows for name, rows in proof.failed_checks.items()}
    counts |= {("too_long", "max_tokens"): proof.rows["too_long"]} if proof.rows.get("too_long") else {}
    return [
        Refusal(proof.stage, name, state, rows, named.get((state, name), [])[:REFUSED_SHOWN])
        for (state, name), rows in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]


def _thumb(content: bytes) -> Picture:
    """`content` in the size of a thumb; nothing if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (THUMB, THUMB))
            small = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Picture("")
    small.thumbnail((THUMB, THUMB))
    return as_jpeg(small)
