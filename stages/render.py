"""Turn conversations into trees of tokens whose loss mask is proved row by row.

Rows are written, tokenised and proved a shard of curated rows at a time, in several processes; what came of a shard is kept, so
a later run does it again only for shards whose rows, pictures or instructions changed. Then rows that share pictures
become trees, some thousands of pictures at a time, in the order of their pictures' sha256, text alone last.
"""

import json
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import AfterValidator, PositiveInt

from stages.corpus import example, ledger, shards
from stages.corpus.example import IMAGE, KINDS
from stages.corpus.instructions import Instructions, conversation, draw, read_instructions
from stages.corpus.ledger import TUNING
from stages.corpus.pictures import read_looks, stores
from stages.pages.certificate import A_TASK, REFUSED_SHOWN, Proof, write_certificate
from stages.pages.masks import spelling
from stages.running import command
from stages.running.command import Out
from stages.running.memo import Memo, digest
from stages.running.memo import place as put
from stages.running.progress import progress
from stages.running.section import Section
from stages.running.workers import mapped
from stages.trees import tree
from stages.trees.certificate import BATCH, CHECKS, Doubt, Prover, check_clock, check_end
from stages.trees.chat import Chat, Tokens, Unproved

GROUPS = 64
"""Parts of a shard by the first bits of the pictures' digest; pictures of one part are planted together."""
ROWS_A_SHARD = 65_536
"""About so many rows in a shard of trees; but no more than `GROUPS` shards, and those of text alone."""


def _of_all_kinds(suffixes: dict[str, list[str]]) -> dict[str, list[str]]:
    if set(suffixes) != set(KINDS):
        raise ValueError(f"name every kind once, with an empty list for none: {', '.join(KINDS)}")
    for kind, texts in suffixes.items():
        for text in texts:
            if not text.strip() or text != text.strip() or IMAGE in text:
                raise ValueError(f"{kind}: {text!r} is no line of words; leave it out")
    return suffixes


class Params(Section):
    """How conversations are written as tokens."""

    seed: int
    """Draws the instruction of each templated row, and the suffix."""
    suffixes: Annotated[dict[str, list[str]], AfterValidator(_of_all_kinds)]
    """Of each kind, requests for the form of the answer, or an empty list; one ends every question of a row that has none."""
    max_tokens: PositiveInt
    """Longest conversation, and longest tree, in tokens; a longer conversation ends in the ledger as too_long."""


PROVED = pa.schema(
    [
        *(field for field in ledger.SCHEMA if field.name != "file"),
        ("kind", pa.string()),
        ("images", pa.list_(pa.string())),
        ("draw", pa.uint64()),
        ("prefix", pa.dictionary(pa.int32(), pa.binary())),
        ("ids", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.bool_())),
        ("digest", pa.uint64()),
        ("structures", pa.list_(pa.uint64())),
        ("longest", pa.int32()),
    ]
)
"""What becomes of a row: its line in the ledger, and if it is ready its tokens; `prefix` as `tree.plant` takes it; `digest` of
all that the row said, so that a later run knows it again; and its claim (`certificate.Claim`) to be asked about."""
Shard = tuple[str, Path]
"""A tuning stage, and a shard of its curated rows."""
LINE = [name for name in ledger.SCHEMA.names if name != "file"]


def render(params: Params, curated: Path, ingested: Path, model: Path, rendered: Out) -> None:
    """Write trees for `connect`, `train` and `align`, the held-out examples as they will be asked, certificate and ledger.

    Raises:
        ValueError: the chat template ends no answer or tells the time, or a templated row's task has no instruction.
    """
    rendered.mkdir(parents=True, exist_ok=True)
    instructions, tokenizer = read_instructions(ingested), spelling(model)
    with Memo("render", params.model_dump(mode="json"), processor_of(model)) as memo:
        proved = prove(params, curated, ingested, model, instructions, memo)
        certified = [plant(stage, files, params.max_tokens, rendered / stage) for stage, files in proved.items()]
        lines = [pq.read_table(file, columns=LINE) for files in proved.values() for file in files]
    write_ledger(rendered / "ledger.parquet", lines)
    write_held_out(rendered / "held_out.parquet", curated / "held_out", instructions, params)
    write_json(rendered / "certificate.json", certified, params)
    write_certificate(rendered / "certificate.html", certified, CHECKS, stores(ingested), tokenizer)


def processor_of(model: Path) -> list[list[str]]:
    """The files of the folder `model` that say what its processor writes, and what they hold; its weights say nothing of it."""
    return [[path.name, digest(path)] for path in sorted(model.iterdir()) if path.is_file() and path.suffix != ".safetensors"]


def prove(
    params: Params, curated: Path, ingested: Path, model: Path, instructions: Instructions, memo: Memo
) -> dict[str, list[Path]]:
    """For each tuning stage and shard of its rows a file of `PROVED`; only rows that no earlier run proved are proved.

    A shard that is as it was is not even read again. Of one from which rows were taken, or to which some were given, because
    `curate` chooses among all rows there are, the others are taken over, but for the few about which the processor itself is to
    be asked now that these rows stand together: so what becomes of a row hangs on no history.
    """
    sizes = Sizes(ingested)
    found: dict[Shard, Path | None] = {}
    keys: dict[Shard, list[object]] = {}
    last: dict[Shard, list[object]] = {}
    for stage in TUNING:
        for shard in shards.of(curated / stage):
            table = sizes.beside(pq.read_table(shard, columns=["source", "images"]))
            sources = set(table["source"].unique().to_pylist())
            asked = [[*key, list(texts)] for key, texts in sorted(instructions.items()) if key[0] in sources]
            shown = [table[name].combine_chunks().flatten().to_numpy().tobytes() for name in SIZES]
            keys[stage, shard] = [stage, shard, digest(asked, *shown)]
            found[stage, shard] = memo.recall(*keys[stage, shard])
            last[stage, shard] = [stage, shard.name, digest(asked), "last"]
            memo.recall(*last[stage, shard])  # asked for, so that it stays
    # Where the processor is doubted, verdicts hang on all rows of the shard together; so none of them is taken over.
    for former in (last, dict.fromkeys(last)):
        missing = [one for one, path in found.items() if path is None]
        known: deque[tuple[pa.Array, pa.Table]] = deque()
        pieces = unproved(missing, sizes, memo, former, known)
        tables = mapped(Renderer, (model, params, instructions), pieces) if missing else iter(())
        for one, (table, doubted) in zip(missing, progress(tables, "render", "shard", total=len(missing)), strict=True):
            names, taken = known.popleft()
            if doubted and len(taken):
                continue
            rows = together(names, taken, table)
            found[one] = made = memo.keep(partial(write_proved, rows=rows.take(by_pictures(rows))), *keys[one])
            if not doubted:
                memo.keep(partial(put, made), *last[one])
    return {stage: [path for (of, _), path in found.items() if of == stage and path is not None] for stage in TUNING}


def unproved(
    missing: Sequence[Shard],
    sizes: "Sizes",
    memo: Memo,
    former: Mapping[Shard, list[object] | None],
    known: deque[tuple[pa.Array, pa.Table]],
) -> Iterator[tuple[str, pa.Table]]:
    """For each shard its stage and those rows that are to be proved: what it had not when it was last proved, and `claimants`.

    To `known` go the names of all its rows, in their order, and what is known of the others.
    """
    for stage, shard in missing:
        rows = sizes.beside(pq.read_table(shard))
        rows = rows.append_column("digest", pl.DataFrame(rows).hash_rows(seed=0).to_arrow())
        parts = former[stage, shard]
        before = memo.recall(*parts) if parts else None
        proved = pq.read_table(before) if before else PROVED.empty_table()
        at = pc.index_in(named(rows), value_set=named(proved))
        same = pc.fill_null(pc.equal(proved["digest"].take(at), rows["digest"]), False).to_numpy()
        kept = proved.take(at.filter(pa.array(same)))
        asked = claimants(kept)
        known.append((named(rows), kept.filter(pa.array(~asked))))
        again = np.zeros(len(rows), bool)
        again[np.flatnonzero(same)[asked]] = True
        yield stage, rows.filter(pa.array(~same | again))


def claimants(proved: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of a table of `PROVED`, in a shard's order, have the first prompt of a structure, or of the longest."""
    first = np.zeros(len(proved), bool)
    if len(proved):
        structures = proved["structures"].combine_chunks()
        _, places = np.unique(structures.flatten().to_numpy(), return_index=True)
        first[pc.list_parent_indices(structures).to_numpy()[places]] = True
        first[np.argmax(proved["longest"].to_numpy())] = True
    return first


def together(names: pa.Array, known: pa.Table, proved: pa.Table) -> pa.Table:
    """What is known and what was proved of the rows of a shard, in the order of `names`."""
    if not len(known):
        return proved
    rows = pa.concat_tables([known, proved]).unify_dictionaries().combine_chunks()
    return rows.take(pc.index_in(names, value_set=named(rows)))


def named(rows: pa.Table) -> pa.Array:
    """SOURCE:ROW of each row."""
    return pc.binary_join_element_wise(rows["source"], rows["row"].cast(pa.string()), ":").combine_chunks()


SIZES = ("width", "height")


class Sizes:
    """Width and height of every stored picture, from the looks that were kept with them; no picture is opened."""

    def __init__(self, ingested: Path) -> None:
        self.looks = read_looks(stores(ingested), ["sha256", *SIZES])
        self.ingested = ingested

    def beside(self, rows: pa.Table) -> pa.Table:
        """`rows` with the columns `SIZES`: a list for each row, in pixels, of its pictures.

        Raises:
            ValueError: a picture is not in the stores, or was not measured there.
        """
        images = rows["images"].combine_chunks()
        digests = images.flatten()
        place = pc.index_in(digests, value_set=self.looks["sha256"])
        measured = self.looks.take(place)
        if measured["width"].null_count:
            digest = digests[pc.index(measured["width"].is_null(), True).as_py()]
            raise ValueError(
                f"picture {digest} of the curated rows was not measured, or is not in {self.ingested}; rows with such pictures "
                "are quarantined by validate: run `dvc repro`"
            )
        for name in SIZES:
            rows = rows.append_column(name, pa.ListArray.from_arrays(images.offsets, measured[name].combine_chunks()))
        return rows


class Renderer:
    """Makes of curated rows what `PROVED` has."""

    def __init__(self, model: Path, params: Params, instructions: Instructions) -> None:
        """Read the processor in the folder `model`.

        Raises:
            ValueError: its chat template ends no answer, or tells the time.
        """
        from stages.models.loading import load_processor, load_stops  # here, for it takes seconds: each process does it once

        self.chat, self.params, self.instructions = Chat(load_processor(model), load_stops(model)), params, instructions
        check_end(self.chat, model)
        check_clock(self.chat, model)

    def __call__(self, piece: tuple[str, pa.Table]) -> tuple[pa.Table, bool]:
        """A table of `PROVED`, of rows of a shard that have their `SIZES` and `digest`, as they came; and whether the processor
        was doubted, so that what became of a row hangs on the others too."""
        stage, rows = piece
        try:
            return self._proved(Prover(self.chat), stage, rows), False
        except Doubt:
            return self._proved(Prover(self.chat, ask_of_all=True), stage, rows), True

    def _proved(self, prover: Prover, stage: str, rows: pa.Table) -> pa.Table:
        # Some at a time, for as Python's objects rows take ten times the room.
        some = [self._some(prover, stage, rows.slice(first, AT_ONCE)) for first in range(0, len(rows), AT_ONCE)]
        prover.confirm()
        return pa.concat_tables([PROVED.empty_table(), *some]).unify_dictionaries().combine_chunks()

    def _some(self, prover: Prover, stage: str, table: pa.Table) -> pa.Table:
        seed, suffixes = self.params.seed, self.params.suffixes
        rows = example.examples_of(table)
        draws = [draw(row, seed, "viewer") for row in rows]
        rows = [conversation(row, self.instructions, seed, suffixes) for row in rows]
        measured = zip(*(table[name].to_pylist() for name in SIZES), strict=True)
        sizes = [tuple(zip(widths, heights, strict=True)) for widths, heights in measured]
        proved = prover([(row.turns, size) for row, size in zip(rows, sizes, strict=True)])
        claims = prover.claims[len(prover.claims) - len(rows) :]
        ended = [self._ended(one, stage) for one in proved]
        ready = [
            one if state == "ready" and isinstance(one, Tokens) else NO_TOKENS
            for one, (state, _) in zip(proved, ended, strict=True)
        ]
        columns = {name: pa.array([getattr(row, name) for row in rows], PROVED.field(name).type) for name in OF_ROW}
        columns |= {"state": pa.array([state for state, _ in ended]), "reason": pa.array([reason for _, reason in ended])}
        columns |= {"draw": pa.array(draws, pa.uint64()), **_arrays(ready), "digest": table["digest"]}
        columns |= {"structures": pa.array([one.structures for one in claims], pa.list_(pa.uint64()))}
        columns |= {"longest": pa.array([one.longest for one in claims], pa.int32())}
        return pa.table([columns[name] for name in PROVED.names], schema=PROVED)

    def _ended(self, tokens: Tokens | Unproved, stage: str) -> tuple[str, str]:
        """State and reason."""
        if isinstance(tokens, Unproved):
            return "uncertified", str(tokens)
        length = len(tokens.prefix) + len(tokens.own)
        if length > self.params.max_tokens:
            return "too_long", f"max_tokens: {length} tokens of {self.params.max_tokens}"
        return "ready", stage


AT_ONCE = 8 * BATCH
"""Rows that a process has as Python's objects."""
OF_ROW = ("source", "row", "id", "task", "kind", "images")
NO_TOKENS = Tokens((), array("i"), ())


def _arrays(tokens: Sequence[Tokens]) -> dict[str, pa.Array]:
    """`prefix`, `ids` and `supervised` of `PROVED`."""
    prefixes: dict[tuple[int, ...], int] = {}
    codes = [prefixes.setdefault(one.prefix, len(prefixes)) for one in tokens]
    ends = np.cumsum([0, *(len(one.own) for one in tokens)], dtype=np.int32)
    ids = np.frombuffer(b"".join(array("i", one.own).tobytes() for one in tokens), np.int32)
    steps = np.zeros(len(ids) + 1, np.int8)
    spans = [
        (begin + start, begin + end) for begin, one in zip(ends.tolist(), tokens, strict=False) for start, end in one.answers
    ]
    np.add.at(steps, [start for start, _ in spans], 1)
    np.subtract.at(steps, [end for _, end in spans], 1)
    distinct = pa.array([array("i", one).tobytes() for one in prefixes], pa.binary())
    return {
        "prefix": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), distinct),
        "ids": pa.ListArray.from_arrays(pa.array(ends), pa.array(ids, pa.int32())),
        "supervised": pa.ListArray.from_arrays(pa.array(ends), pa.array(np.cumsum(steps[:-1]).astype(bool))),
    }


def by_pictures(rows: pa.Table) -> pa.Array:
    """The order of `rows` by their pictures, text alone last; rows about the same ones stay as they come."""
    key = pc.binary_join(rows["images"].combine_chunks(), "")
    order = pa.table({"text": pc.equal(key, ""), "key": key, "place": np.arange(len(rows))})
    return pc.sort_indices(order, [(name, "ascending") for name in order.column_names])


def write_proved(path: Path, rows: pa.Table) -> None:
    """Write a table of `PROVED`, sorted as `by_pictures` has it, in a row group for each of `GROUPS` and one for text alone."""
    groups = group_of(rows["images"].combine_chunks())
    present, starts = np.unique(groups, return_index=True)
    ends = [*starts.tolist(), len(rows)][1:]
    with pq.ParquetWriter(path, PROVED, compression="zstd") as writer:
        for start, end in zip(starts.tolist(), ends, strict=True):
            writer.write_table(rows.slice(start, end - start))
        writer.add_key_value_metadata({"groups": json.dumps(present.tolist())})


def group_of(images: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row the part of a shard that it belongs to: by the first bits of its first picture's digest."""
    key = pc.utf8_slice_codeunits(pc.binary_join(images, ""), 0, 2).to_pylist()
    return np.array([int(two, 16) * GROUPS // 256 if two else GROUPS for two in key], np.int64)


def plant(stage: str, files: Sequence[Path], max_tokens: int, folder: Path) -> Proof:
    """Write the trees of the ready rows of `files` into shards of `folder`, and say what became of all rows."""
    sizes = tree.sizes(tree.SCHEMA.empty_table())
    states, failed = Counter[str](), Counter[str]()
    samples, refused = PROVED.empty_table(), PROVED.append(NAME).empty_table()
    for number, rows in enumerate(parts(files)):
        is_ready = pc.equal(rows["state"], "ready")
        ready, ended = rows.filter(is_ready), rows.filter(pc.invert(is_ready))
        trees = tree.plant(ready.take(by_pictures(ready)), max_tokens)
        tree.write_table(folder / shards.name(number), trees)
        sizes = {name: sizes[name] + more for name, more in tree.sizes(trees).items()}
        ended = ended.append_column(NAME, pa.array(map(ledger.reason_name, ended["reason"].to_pylist()), NAME.type))
        states.update(_counts(rows["state"]))
        failed.update(_counts(ended.filter(pc.equal(ended["state"], "uncertified"))["name"]))
        samples = first_drawn(pa.concat_tables([samples, ready]), "task", A_TASK)
        refused = first_drawn(pa.concat_tables([refused, ended]), "name", REFUSED_SHOWN)
    return Proof(stage, dict(sorted(states.items())), dict(sorted(failed.items())), sizes, samples, refused)


NAME = pa.field("name", pa.string())
"""Of a reason."""


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}


def parts(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of `files` for one shard of trees after the other: by the first bits of their pictures' digest, then text alone.

    One shard is enough for few rows. Of more, each row of one picture has its place in one shard, whatever file it is in.
    """
    opened = [pq.ParquetFile(file) for file in files]
    groups = [json.loads(file.metadata.metadata[b"groups"]) for file in opened]
    held = [
        (group, place, number, file.metadata.row_group(place).num_rows)
        for number, (file, present) in enumerate(zip(opened, groups, strict=True))
        for place, group in enumerate(present)
    ]
    total = sum(rows for *_, rows in held)
    pictured = sum(rows for group, *_, rows in held if group < GROUPS)
    some = 1
    while some < GROUPS and pictured > some * ROWS_A_SHARD:
        some *= 2
    # Which shard a group of rows goes to; text alone comes last, in the order in which it came.
    of_part: dict[int, list[tuple[int, int]]] = {}
    text = 0
    for group, place, number, rows in held:
        part = 0 if total <= ROWS_A_SHARD else group * some // GROUPS
        if part == some:
            part += text // ROWS_A_SHARD
            text += rows
        of_part.setdefault(part, []).append((number, place))
    for _, wanted in sorted(of_part.items()):
        read = [opened[number].read_row_group(place) for number, place in wanted]
        yield pa.concat_tables(read).unify_dictionaries().combine_chunks()
    if not of_part:
        yield PROVED.empty_table()


def first_drawn(rows: pa.Table, by: str, most: int) -> pa.Table:
    """Of the rows of each value of `by` the `most` that are drawn first."""
    keys = (by, "draw", "source", "row")
    order = pc.sort_indices(rows.select(keys), [(key, "ascending") for key in keys])
    seen: Counter[str] = Counter()
    chosen = []
    for place, group in zip(order.to_pylist(), rows[by].take(order).to_pylist(), strict=True):
        seen[group] += 1
        if seen[group] <= most:
            chosen.append(place)
    return rows.take(pa.array(chosen, pa.int64()))


def write_json(path: Path, certified: Sequence[Proof], params: Params) -> None:
    """Write the certificate in figures, and how rows were asked."""
    stages = {one.stage: {"rows": one.rows, "failed_checks": one.failed_checks, **one.sizes} for one in certified}
    asked = {"seed": params.seed, "suffixes": params.suffixes}
    path.write_text(json.dumps({"checks": CHECKS, "asked": asked, "stages": stages}, indent=2) + "\n", encoding="utf-8")


def write_ledger(path: Path, ended: Sequence[pa.Table]) -> None:
    """Write the lines of the stage's ledger."""
    lines = pa.concat_tables([ledger.SCHEMA.empty_table().select(LINE), *ended])
    ledger.write_table(path, lines.append_column("file", pa.repeat("", len(lines))))


def write_held_out(path: Path, folder: Path, instructions: Instructions, params: Params) -> None:
    """Write the held-out rows as they will be asked, a shard of curated rows at a time."""
    with pq.ParquetWriter(path, example.SCHEMA) as writer:
        for shard in shards.of(folder):
            rows = [conversation(row, instructions, params.seed, params.suffixes) for row in example.read(shard)]
            writer.write_table(example.table_of(rows))


if __name__ == "__main__":
    command.run(render)
