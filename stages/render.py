"""Turn conversations into trees of tokens whose loss mask is proved row by row."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from PIL import Image
from pydantic import PositiveInt

from stages.corpus import example, ledger, shards
from stages.corpus.decoding import FORMATS
from stages.corpus.example import Example
from stages.corpus.images import read_images, stores
from stages.corpus.instructions import conversation, read_instructions
from stages.running import command
from stages.running.command import Out
from stages.running.progress import progress
from stages.running.section import Section
from stages.running.workers import mapped
from stages.trees import tree
from stages.trees.certificate import CHECKS, check_end, prove_all
from stages.trees.chat import Chat, Tokens, Unproved
from stages.trees.tree import Branch, Tree

TUNED = ("connect", "train", "align")
PIECE = 32
"""Groups that a process takes at a time."""


class Params(Section):
    """How conversations are written as tokens."""

    seed: int
    """Draws the instruction of each templated row."""
    max_tokens: PositiveInt
    """Longest conversation, and longest tree, in tokens; a longer conversation ends in the ledger as too_long."""


@dataclass(frozen=True, slots=True)
class Group:
    """The conversations about the same pictures, for one tuning stage."""

    stage: str
    rows: tuple[Example, ...]
    pictures: tuple[bytes, ...]
    """As they are stored."""


Grown = tuple[list[Tree], list[ledger.Line]]
"""Trees, and for every row behind them the state it ends in."""


def render(params: Params, curated: Path, ingested: Path, model: Path, rendered: Out) -> None:
    """Write trees for `connect`, `train` and `align`, the held-out examples as they will be asked, certificate and ledger.

    Raises:
        ValueError: the chat template ends no answer, or a templated row's task has no instruction.
    """
    instructions = read_instructions(ingested)

    def asked(name: str) -> list[Example]:
        return [conversation(row, instructions, params.seed) for row in example.read_all(curated / name)]

    selected = {stage: behind(asked(stage)) for stage in TUNED}
    grown: dict[str, Grown] = {stage: ([], []) for stage in TUNED}
    for stage, trees, lines in proved(selected, ingested, model, params):
        grown[stage][0].extend(trees)
        grown[stage][1].extend(lines)
    for stage, (trees, _) in grown.items():
        tree.write(rendered / stage / shards.name(0), trees)
    example.write(rendered / "held_out.parquet", asked("held_out"))
    ledger.write(rendered / "ledger.parquet", [line for _, lines in grown.values() for line in lines])
    certificate = {"checks": CHECKS, "stages": {stage: summary(*both) for stage, both in grown.items()}}
    (rendered / "certificate.json").write_text(json.dumps(certificate, indent=2) + "\n", encoding="utf-8")


def behind(rows: Iterable[Example]) -> list[list[Example]]:
    """`rows` by their pictures, in the order of these; text alone has no prefix to share, so each such row is a group."""
    groups: dict[tuple[str, ...], list[Example]] = {}
    for row in rows:
        groups.setdefault(row.images or ("text", row.source, str(row.row)), []).append(row)
    return [group for _, group in sorted(groups.items())]


def proved(
    selected: Mapping[str, list[list[Example]]], ingested: Path, model: Path, params: Params
) -> Iterator[tuple[str, list[Tree], list[ledger.Line]]]:
    """For each group of each tuning stage: the stage, and what becomes of the group. Processes take some groups at a time."""
    stages = chain.from_iterable([stage] * len(groups) for stage, groups in selected.items())
    grown = mapped(Grower, (model, params.max_tokens), pieces(selected, ingested))
    total = sum(map(len, selected.values()))
    for stage, one in zip(stages, progress(chain.from_iterable(grown), "render", "tree", total=total), strict=True):
        yield stage, *one


def pieces(selected: Mapping[str, list[list[Example]]], ingested: Path) -> Iterator[list[Group]]:
    """Some groups at a time, with their pictures; of the pictures, only one stage's are in memory."""
    for stage, groups in selected.items():
        content = dict(read_images(stores(ingested), {digest for group in groups for digest in group[0].images}))
        for first in range(0, len(groups), PIECE):
            yield [
                Group(stage, tuple(group), tuple(content[digest] for digest in group[0].images))
                for group in groups[first : first + PIECE]
            ]


class Grower:
    """Makes trees of groups of conversations whose tokens are proved."""

    def __init__(self, model: Path, max_tokens: int) -> None:
        """Read the processor in the folder `model`.

        Raises:
            ValueError: its chat template ends no answer.
        """
        from stages.models.loading import load_processor, load_stops  # here, for it takes seconds: each process does it once

        self.chat, self.max_tokens = Chat(load_processor(model), load_stops(model)), max_tokens
        check_end(self.chat, model)

    def __call__(self, groups: Sequence[Group]) -> list[Grown]:
        """Trees of the rows of each group whose tokens are proved, and for every row the state it ends in."""
        return [self._grow(group) for group in groups]

    def _grow(self, group: Group) -> Grown:
        shown = [Image.open(io.BytesIO(picture), formats=FORMATS).convert("RGB") for picture in group.pictures]
        sound, lines = [], []
        for row, tokens in zip(group.rows, prove_all(self.chat, [row.turns for row in group.rows], shown), strict=True):
            state, reason = "ready", group.stage
            if isinstance(tokens, Unproved):
                state, reason = "uncertified", str(tokens)
            elif len(tokens.ids) > self.max_tokens:
                state, reason = "too_long", f"max_tokens: {len(tokens.ids)} tokens of {self.max_tokens}"
            else:
                sound.append((row, tokens))
            lines.append(ledger.Line(row.source, row.row, row.id, row.task, state, reason))
        return list(plant(group.rows[0].images, sound, self.max_tokens)), lines


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
