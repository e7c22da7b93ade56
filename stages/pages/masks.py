"""Examples as the model reads them: a picture, its prompt and answer as tokens, the tokens of the loss marked."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from stages.corpus import shards

TREES_A_BATCH = 500
LONGEST_SHOWN = 400
"""Tokens of one branch that are shown; the rest is only counted."""
RUN = 4
"""So many equal tokens in a row (a picture's) are shown as one, with their number."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one token, or of a few that spell one letter together, or of `times` equal ones."""

    text: str
    supervised: bool
    times: int = 1
    special: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One branch behind its picture."""

    stage: str
    source: str
    row: int
    task: str
    kind: str
    image: str
    """sha256, or empty where there is no picture."""
    siblings: int
    """How many branches stand behind the same picture."""
    prefix: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    tokens: int
    supervised: int
    left_out: int
    """Tokens of the branch that are not shown."""


@dataclass(frozen=True, slots=True)
class Grove:
    """All trees of one tuning stage in numbers, and one example of each task."""

    stage: str
    trees: int
    branches: int
    tokens: int
    supervised: int
    unshared: int
    """Tokens there would be if each branch carried its own prefix."""
    shown: tuple[Shown, ...]
    whole: tuple[Shown, ...]
    """All branches of one tree, to show how they share a picture."""


def grove(stage: str, folder: Path, tokenizer: Tokenizer, seed: int, most_tasks: int) -> Grove:
    """Read the trees of `stage`; the choice of the examples is drawn by `seed`, whatever the order of the trees."""
    trees = branches = tokens = supervised = unshared = 0
    best: dict[str, tuple[str, dict[str, Any], int]] = {}
    widest: tuple[tuple[int, str], dict[str, Any]] | None = None
    batches = (batch for shard in shards.of(folder) for batch in pq.ParquetFile(shard).iter_batches(TREES_A_BATCH))
    for batch in batches:
        lists = batch["branches"]
        trees += len(batch)
        branches += len(lists.flatten())
        prefixes = pc.list_value_length(batch["prefix"]).to_pylist()
        sizes = pc.list_value_length(lists).to_pylist()
        own = len(lists.flatten().field("ids").flatten())
        tokens += own + sum(prefixes)
        unshared += own + sum(prefix * size for prefix, size in zip(prefixes, sizes, strict=True))
        supervised += pc.sum(lists.flatten().field("supervised").flatten()).as_py() or 0
        names = iter(zip(*(lists.flatten().field(field).to_pylist() for field in ("source", "row", "task")), strict=True))
        for index, size in enumerate(sizes):
            tasks = []
            for place in range(size):
                source, row, task = next(names)
                tasks.append(task)
                draw = _draw(seed, stage, task, source, row)
                if task not in best or draw < best[task][0]:
                    best[task] = (draw, batch.slice(index, 1).to_pylist()[0], place)
            # A tree of many different tasks, but not so many that it fills the page.
            if 2 <= size <= 7:
                rank = (-len(set(tasks)), _draw(seed, stage, source, row))
                if widest is None or rank < widest[0]:
                    widest = (rank, batch.slice(index, 1).to_pylist()[0])
    chosen = sorted(best)
    if len(chosen) > most_tasks:
        chosen = sorted(sorted(chosen, key=lambda task: best[task][0])[:most_tasks])
    return Grove(
        stage,
        trees,
        branches,
        tokens,
        supervised,
        unshared,
        tuple(shown(stage, best[task][1], best[task][2], tokenizer) for task in chosen),
        tuple(shown(stage, widest[1], place, tokenizer) for place in range(len(widest[1]["branches"]))) if widest else (),
    )


def spelling(base_model: Path) -> Tokenizer:
    """What spells the tokens of the model in the folder `base_model`.

    Raises:
        ValueError: it has no tokenizer.json.
    """
    path = base_model / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}, which pages need to spell tokens; choose a base.model with a fast tokenizer")
    return Tokenizer.from_file(str(path))


def pieces(ids: Sequence[int], supervised: Sequence[bool], tokenizer: Tokenizer) -> list[Piece]:
    """The text of each token with its mask; tokens join where only together they spell a letter."""
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found: list[Piece] = []
    before: int | None = None
    for span, flag, is_special in _stretches(ids, supervised, special.__contains__):
        if is_special:
            found.extend(_runs(span, flag, tokenizer))
        else:
            found.extend(Piece(text, flag) for text in _texts(span, tokenizer, before))
        before = None if is_special else span[-1]
    return found


def _stretches(
    ids: Sequence[int], supervised: Sequence[bool], special: Callable[[int], bool]
) -> Iterator[tuple[list[int], bool, bool]]:
    """`ids` cut wherever the mask, or being special, changes."""
    span: list[int] = []
    was: tuple[bool, bool] | None = None
    for id, flag in zip(ids, supervised, strict=True):
        now = (flag, special(id))
        if was is not None and now != was:
            yield span, *was
            span = []
        span.append(id)
        was = now
    if was is not None:
        yield span, *was


def _runs(ids: Sequence[int], flag: bool, tokenizer: Tokenizer) -> Iterator[Piece]:
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[start]:
            text, times = tokenizer.id_to_token(ids[start]) or "", end - start
            if times >= RUN:
                yield Piece(text, flag, times, True)
            else:
                yield from [Piece(text, flag, 1, True)] * times
            start = end


def _texts(ids: Sequence[int], tokenizer: Tokenizer, before: int | None) -> Iterator[str]:
    """The texts of `ids`, which put together are the text of all; `before` is the token they follow."""
    # Some tokenizers drop the space before the first word of a text, so a token from before goes first.
    context = [] if before is None else [before]
    start = tokenizer.decode(context, skip_special_tokens=False)
    whole = tokenizer.decode([*context, *ids], skip_special_tokens=False)
    if not whole.startswith(start):
        context, start, whole = [], "", tokenizer.decode(list(ids), skip_special_tokens=False)
    done = len(start)
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode([*context, *ids[:end]], skip_special_tokens=False)
        # A letter cut in two reads as a replacement mark until its other half is there.
        if end == len(ids) or (whole.startswith(text) and len(text) > done):
            yield (whole if end == len(ids) else text)[done:]
            done = len(text)


def shown(stage: str, tree: dict[str, Any], place: int, tokenizer: Tokenizer, longest: int = LONGEST_SHOWN) -> Shown:
    """The branch at `place` of `tree`, a row of a table of trees, with at most its first `longest` tokens."""
    branch = tree["branches"][place]
    ids, supervised = branch["ids"], branch["supervised"]
    return Shown(
        stage,
        branch["source"],
        branch["row"],
        branch["task"],
        branch["kind"],
        tree["images"][0] if tree["images"] else "",
        len(tree["branches"]),
        tuple(pieces(tree["prefix"], [False] * len(tree["prefix"]), tokenizer)),
        tuple(pieces(ids[:longest], supervised[:longest], tokenizer)),
        len(ids),
        sum(supervised),
        max(0, len(ids) - longest),
    )


def _draw(seed: int, *words: object) -> str:
    """A number (as hex) drawn for these words: the same for the same seed, unlike for any other."""
    return hashlib.sha256("/".join(map(str, (seed, *words))).encode()).hexdigest()
