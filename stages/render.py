"""Turn conversations into trees of tokens whose loss mask is proved row by row."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from stages.corpus import example, ledger
from stages.corpus.decoding import FORMATS
from stages.corpus.example import Example, Turn
from stages.corpus.images import read_images, stores
from stages.models.loading import load_processor, load_stops
from stages.running import command
from stages.running.command import Out
from stages.running.progress import progress
from stages.running.section import Section
from stages.trees import tree
from stages.trees.certificate import CHECKS, check_end, prove_all
from stages.trees.chat import Chat, Tokens, Unproved, image_first
from stages.trees.tree import Branch, Tree

TUNED = ("connect", "train", "align")


class Params(Section):
    """How conversations are written as tokens."""

    seed: int
    """Draws the instruction of each templated row."""
    max_tokens: int
    """Longest conversation, and longest tree, in tokens; a longer conversation ends in the ledger as too_long."""


def render(params: Params, curated: Path, ingested: Path, model: Path, rendered: Out) -> None:
    """Write trees for `connect`, `train` and `align`, the held-out examples as they will be asked, certificate and ledger.

    Raises:
        ValueError: the chat template ends no answer, or a templated row's task has no instruction.
    """
    chat = Chat(load_processor(model), load_stops(model))
    check_end(chat, model)
    instructions = read_instructions(ingested)
    lines, counts = [], {}
    for stage in TUNED:
        selected = [conversation(row, instructions, params.seed) for row in example.read(curated / f"{stage}.parquet")]
        trees, ended = grow(chat, selected, ingested, stage, params.max_tokens)
        (rendered / stage).mkdir(parents=True)
        tree.write(rendered / stage / "trees.parquet", trees)
        lines += ended
        counts[stage] = summary(trees, ended)
    held_out = [conversation(row, instructions, params.seed) for row in example.read(curated / "held_out.parquet")]
    example.write(rendered / "held_out.parquet", held_out)
    ledger.write(rendered / "ledger.parquet", lines)
    certificate = {"checks": CHECKS, "stages": counts}
    (rendered / "certificate.json").write_text(json.dumps(certificate, indent=2) + "\n", encoding="utf-8")


def read_instructions(ingested: Path) -> dict[tuple[str, str], list[str]]:
    """The expert-written instructions of each (source, task)."""
    found = {}
    for path in sorted(ingested.glob("*/instructions.json")):
        for task, about in json.loads(path.read_text(encoding="utf-8")).items():
            found[path.parent.name, task] = about["instructions"]
    return found


def conversation(row: Example, instructions: dict[tuple[str, str], list[str]], seed: int) -> Example:
    """`row` as it will be asked: with one of its task's instructions if it is templated, and its pictures first.

    Which instruction is drawn depends on the row and the seed alone, so adding rows changes no other.

    Raises:
        ValueError: the row is templated, and its source has no instruction for its task.
    """
    turns = image_first(row.turns, len(row.images))
    if row.templated:
        choices = instructions.get((row.source, row.task))
        if not choices:
            raise ValueError(
                f"row {row.row} of source {row.source} needs an instruction for task {row.task!r}, but the source has none; "
                f"add it to the file that ingest.sources.{row.source}.instructions names"
            )
        draw = hashlib.sha256(f"{seed}/{row.source}/{row.row}".encode()).digest()
        instruction = choices[int.from_bytes(draw[:8]) % len(choices)]
        marks, given = (
            turns[0].text[: len(example.IMAGE) * len(row.images)],
            turns[0].text[len(example.IMAGE) * len(row.images) :],
        )
        turns = (Turn("user", marks + "\n\n".join(part for part in (instruction, given) if part)), *turns[1:])
    return replace(row, turns=turns, templated=False)


def grow(
    chat: Chat, rows: Sequence[Example], ingested: Path, stage: str, max_tokens: int
) -> tuple[list[Tree], list[ledger.Line]]:
    """Trees of the rows whose tokens are proved, and for every row the state it ends in."""
    behind: dict[tuple[str, ...], list[Example]] = {}
    for row in rows:
        # Text alone has no prefix to share: each such row is a tree of its own.
        key = row.images or ("text", row.source, str(row.row))
        behind.setdefault(key, []).append(row)
    content = dict(read_images(stores(ingested), {digest for row in rows for digest in row.images}))
    trees: list[Tree] = []
    lines: list[ledger.Line] = []
    for _, group in progress(sorted(behind.items()), f"render {stage}", "tree"):
        shown = [Image.open(io.BytesIO(content[digest]), formats=FORMATS).convert("RGB") for digest in group[0].images]
        proved = []
        for row, tokens in zip(group, prove_all(chat, [row.turns for row in group], shown), strict=True):
            state, reason = "ready", stage
            if isinstance(tokens, Unproved):
                state, reason = "uncertified", str(tokens)
            elif len(tokens.ids) > max_tokens:
                state, reason = "too_long", f"max_tokens: {len(tokens.ids)} tokens of {max_tokens}"
            else:
                proved.append((row, tokens))
            lines.append(ledger.Line(row.source, row.row, row.id, row.task, state, reason))
        trees += plant(group[0].images, proved, max_tokens)
    return trees, lines


def plant(images: tuple[str, ...], proved: Sequence[tuple[Example, Tokens]], max_tokens: int) -> Iterator[Tree]:
    """One tree of the conversations behind `images`; another is begun where one would grow over `max_tokens`."""
    branches: list[Branch] = []
    prefix: tuple[int, ...] = ()
    size = 0
    for row, tokens in proved:
        own, cut = tokens.ids[: tokens.image_end], tokens.image_end
        branch = Branch(row.source, row.row, row.task, row.kind, tokens.ids[cut:], tokens.supervised[cut:])
        if branches and (own != prefix or size + len(branch.ids) > max_tokens):
            yield Tree(images, prefix, tuple(branches))
            branches = []
        if not branches:
            prefix, size = own, len(own)
        branches.append(branch)
        size += len(branch.ids)
    if branches:
        yield Tree(images, prefix, tuple(branches))


def summary(trees: Sequence[Tree], lines: Sequence[ledger.Line]) -> dict[str, int | dict[str, int]]:
    """What the certificate says of one stage: rows by state, and the sizes of what was proved."""
    branches = [branch for one in trees for branch in one.branches]
    return {
        "rows": dict(sorted(Counter(line.state for line in lines).items())),
        "failed_checks": dict(
            sorted(Counter(line.reason.split(":")[0] for line in lines if line.state == "uncertified").items())
        ),
        "trees": len(trees),
        "branches": len(branches),
        "tokens": sum(one.tokens for one in trees),
        "supervised_tokens": sum(sum(branch.supervised) for branch in branches),
        "tokens_as_separate_rows": sum(len(one.prefix) * len(one.branches) + one.tokens - len(one.prefix) for one in trees),
    }


if __name__ == "__main__":
    command.run(render)
