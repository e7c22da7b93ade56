"""The rendered corpus for other trainers, as Parquet: every row that `render` certified, asked as the model is asked.

Two forms. `messages`: `images` and `messages`, as TRL's trainers take them; `fine_vision`: `images` and `texts`, as FineVision
and the Cauldron lie on the hub. Both can be read by the library `datasets`, which decodes the pictures, and by `ingest`. In
both, pictures stand before the first question and leave no mark in the text. Beside its conversation a row keeps `source` and
`row`, which name it in the ledger, and its other labels, task and kind as `task_name` and `type`.

Rows about the same pictures lie together, in the order of the image stores; so a picture is read once for all of them, and
Parquet's dictionary holds its bytes once in a group of rows.
"""

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.corpus import example, ledger, shards
from stages.corpus.example import IMAGE, Example, Turn
from stages.corpus.images import stores
from stages.corpus.instructions import Instructions, Suffixes, conversation, read_instructions
from stages.running.command import WORK
from stages.running.leash import alone
from stages.running.memo import digest
from stages.running.progress import progress
from stages.running.stores import has_bucket, make_room, opened, told

STAGES = ("connect", "train", "align")
MANIFEST = "tandem-manifest.json"
"""Beside what was written: the sha256 of every file, by its path. On another store it is sent last."""
CARD = "README.md"
ROWS_A_GROUP = 256
BYTES_A_GROUP = 64 * 2**20
"""Pictures in a group of rows, about; what a reader holds at once."""
ROWS_SORTED = 50_000
"""Conversations held at once while they are put into the order of their pictures."""
GROUPS_HELD = 8
"""Groups of a picture store kept for rows of several pictures that lie apart."""

OWN_NAMES = {"task": "task_name", "kind": "type"}
"""What LLaVA's rows, and so our readers, call two of our fields."""
FIELD_OF = {OWN_NAMES.get(name, name): name for name in example.SCHEMA.names if name not in ("images", "turns", "templated")}
LABELS = {name: example.SCHEMA.field(field).type for name, field in FIELD_OF.items()}
"""Fields of an example that are written as they are."""
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def _texts(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"user": asked.text, "assistant": said.text} for asked, said in zip(turns[::2], turns[1::2], strict=True)]


@dataclass(frozen=True, slots=True)
class Form:
    """How a conversation is written."""

    column: str
    fields: tuple[str, str]
    """Of each entry of the column, both texts."""
    write: Callable[[Sequence[Turn]], list[dict[str, str]]]
    """Turns without marks → the entries."""

    @property
    def talk(self) -> pa.DataType:
        """The column's type."""
        return pa.list_(pa.struct([(field, pa.string()) for field in self.fields]))


FORMS = {
    "messages": Form("messages", ("role", "content"), _messages),
    "fine_vision": Form("texts", ("user", "assistant"), _texts),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command may be told."""
    parser.add_argument("--to", required=True, help="where to write: a folder, or a URL of another store (s3://bucket/folder)")
    parser.add_argument("--form", choices=FORMS, default="messages", help="how conversations are written (messages)")
    parser.add_argument(
        "--stage", choices=[*STAGES, "all"], default="all", help="the tuning stage whose rows are written (all)"
    )
    parser.add_argument("--shard-mib", type=int, default=512, help="pictures in one file, in MiB, each counted once (512)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the stages' outputs (data)")


def run(arguments: argparse.Namespace) -> int:
    """Write what is asked for; exit status 2, with one plain message, where it cannot be written."""
    try:
        written = export(
            arguments.data,
            arguments.to,
            FORMS[arguments.form],
            STAGES if arguments.stage == "all" else (arguments.stage,),
            arguments.shard_mib,
            *_asking(arguments.data),
        )
    except (ValueError, OSError) as error:
        print(f"\nexport: {error}", file=sys.stderr)
        return 2
    for stage, rows in written.items():
        print(f"{stage}: {rows:,} rows")
    return 0


def _asking(data: Path) -> tuple[int, Suffixes]:
    """How `render` asked, as its certificate says: the seed of its draws, and its requests for the form of the answer."""
    path = data / "render" / "certificate.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}; `dvc repro render` makes it, and --data names the stages' folder")
    asked = json.loads(path.read_text(encoding="utf-8"))["asked"]
    return asked["seed"], asked["suffixes"]


def export(
    data: Path, to: str, form: Form, stages: Sequence[str], shard_mib: int, seed: int, suffixes: Suffixes
) -> dict[str, int]:
    """Write the rows that are ready for `stages`, and give how many there are of each stage.

    A local folder appears whole or not at all; on another store the manifest comes last. Memory holds some tens of bytes of
    each row and picture, the conversations of `ROWS_SORTED` rows and the pictures of some groups of rows.

    Raises:
        ValueError: the outputs in `data` are not of one run, or something else lies at `to`.
    """
    ready = ready_rows(data)
    about = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(data.glob("ingest/[!.]*/source.json"))}
    album = Album(data / "ingest")
    instructions = read_instructions(data / "ingest")
    counts: dict[str, dict[str, int]] = {}
    with Destination(to) as place:
        for stage in stages:
            own = ready.filter(pl.col("stage") == stage)
            counts[stage] = dict(own.group_by("source").len().sort("source").iter_rows())
            schema = schema_of(form, {source: about.get(source, {}).get("licence") for source in counts[stage]})
            talks = conversations(
                own, data / "curate" / stage, album, place.scratch, form, lambda row: asked(row, instructions, seed, suffixes)
            )
            with Shards(place, stage, schema, shard_mib * 2**20) as written:
                for some in progress(talks, f"export {stage}", "group"):
                    written.add(*album.shown(some, schema))
        place.write(CARD, card(form, counts, about))
    return {stage: sum(own.values()) for stage, own in counts.items()}


def ready_rows(data: Path) -> pl.DataFrame:
    """`source`, `row` and `stage` of every row that `render` certified.

    Raises:
        ValueError: a stage has not run, or the stages' ledgers are not of one run.
    """
    parts = [data / stage for stage in ("validate", "curate", "render")]
    for part in parts:
        if not (part / "ledger.parquet").is_file():
            raise ValueError(f"there is no ledger in {part}; `dvc repro render` makes it, and --data names the stages' folder")
    ledger.join(ledger.read_parts(data / "ingest", *parts))
    lines = pl.read_parquet(data / "render" / "ledger.parquet", columns=["source", "row", "state", "reason"])
    return lines.filter(pl.col("state") == "ready").select("source", "row", stage="reason")


def asked(row: Example, instructions: Instructions, seed: int, suffixes: Suffixes) -> tuple[Turn, ...]:
    """The turns of `row` as the model is asked; that its pictures come first goes without saying."""
    turns = conversation(row, instructions, seed, suffixes).turns
    marks = IMAGE * len(row.images)
    assert turns[0].text.startswith(marks), f"{row.source}#{row.row}: the pictures do not come first"
    return (Turn(turns[0].role, turns[0].text[len(marks) :]), *turns[1:])


class Album:
    """The pictures of all image stores, by their place: a number that grows in the order of the stores."""

    def __init__(self, ingested: Path) -> None:
        self.groups: list[tuple[Path, int]] = []
        """A file, and a group of rows in it."""
        firsts, sizes = [0], []
        digests = []
        for shard in (shard for store in stores(ingested) for shard in shards.of(store / "images")):
            with pq.ParquetFile(shard) as file:
                column = file.schema_arrow.get_field_index("bytes")
                for number in range(file.metadata.num_row_groups):
                    group = file.metadata.row_group(number)
                    self.groups.append((shard, number))
                    firsts.append(firsts[-1] + group.num_rows)
                    sizes.append(group.column(column).total_uncompressed_size / max(group.num_rows, 1))
                digests.append(pl.Series("images", file.read(["sha256"])["sha256"], dtype=pl.String))
        self.firsts, self.sizes = np.array(firsts), np.array(sizes)
        known = pl.concat(digests) if digests else pl.Series("images", [], dtype=pl.String)
        # Two sources may hold one picture; the first serves for both.
        self.places = pl.DataFrame({"images": known, "place": np.arange(len(known))}).unique("images", keep="first")
        self.held: OrderedDict[int, pa.Array] = OrderedDict()

    def find(self, images: pl.Series) -> pl.Series:
        """Of each row's list of sha256 the list of places, int64.

        Raises:
            ValueError: a picture is in no store.
        """
        flat = pl.DataFrame({"line": np.arange(len(images)), "images": images}).explode("images").drop_nulls()
        found = flat.join(self.places, on="images", how="left", maintain_order="left")
        if lost := found["place"].null_count():
            first = found.filter(pl.col("place").is_null())["images"][0]
            raise ValueError(
                f"{lost} pictures are in no image store (first {first}); run `dvc repro` so that all is of one run"
            )
        lists = found.group_by("line", maintain_order=True).agg("place")
        lines = pl.DataFrame({"line": np.arange(len(images))}).join(lists, on="line", how="left", maintain_order="left")
        return lines["place"].fill_null([]).cast(pl.List(pl.Int64))

    def size(self, places: np.ndarray) -> np.ndarray:
        """About how many bytes each has: as many as pictures of its group have on average."""
        return self.sizes[self._group(places)] if len(places) else np.zeros(0)

    def read(self, places: np.ndarray) -> pa.BinaryArray:
        """The bytes of the pictures at `places`."""
        groups = np.unique(self._group(places)).tolist()
        parts = [self._read(group) for group in groups]
        while len(self.held) > max(GROUPS_HELD, len(groups)):
            self.held.popitem(last=False)
        if not parts:
            return pa.array([], pa.binary())
        # Where each group begins in the parts put together, less where it begins among all.
        begins = np.cumsum([0, *map(len, parts[:-1])]) - self.firsts[groups]
        return pa.concat_arrays(parts).take(pa.array(places + begins[np.searchsorted(groups, self._group(places))]))

    def _group(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.firsts, places, side="right") - 1

    def _read(self, group: int) -> pa.Array:
        if group not in self.held:
            path, number = self.groups[group]
            with pq.ParquetFile(path) as file:
                self.held[group] = file.read_row_group(number, columns=["bytes"])["bytes"].combine_chunks()
        self.held.move_to_end(group)
        return self.held[group]

    def shown(self, rows: pa.Table, schema: pa.Schema) -> tuple[pa.Table, int]:
        """`rows` with their pictures instead of the places of these, as `schema` says; and the pictures' bytes, each once."""
        lists = rows["places"].combine_chunks()
        places = lists.flatten().to_numpy()
        distinct, of = np.unique(places, return_inverse=True)
        content = self.read(distinct)
        size = int(pc.sum(pc.binary_length(content)).as_py() or 0)
        structs = pa.StructArray.from_arrays(
            [content.take(pa.array(of)), pa.nulls(len(of), pa.string())], fields=list(IMAGES.value_type)
        )
        offsets = pc.subtract(lists.offsets, lists.offsets[0])
        columns = {
            **{name: rows[name] for name in schema.names if name != "images"},
            "images": pa.ListArray.from_arrays(offsets, structs),
        }
        return pa.table([columns[name] for name in schema.names], schema=schema), size


def conversations(
    ready: pl.DataFrame, selected: Path, album: Album, scratch: Path, form: Form, ask: Callable[[Example], tuple[Turn, ...]]
) -> Iterator[pa.Table]:
    """The `ready` rows among those `selected` for their stage, a group at a time, in the order of their pictures.

    Columns: the labels, the form's, and `places`. Text alone comes last. The rows of all shards are first dealt out to
    files of `ROWS_SORTED` rows below `scratch`, by their place in the order.

    Raises:
        ValueError: a row was not selected, or is there twice.
    """
    order = _order(ready, selected, album)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        _deal(order, selected, Path(folder), form, ask)
        for dealt in shards.of(Path(folder)):
            rows = pq.read_table(dealt).sort_by("rank")
            yield from _groups(rows, album)


ORDER: dict[str, Any] = {"shard": pl.Int64, "line": pl.Int64, "source": pl.String, "row": pl.Int64, "places": pl.List(pl.Int64)}


def _order(ready: pl.DataFrame, selected: Path, album: Album) -> pl.DataFrame:
    """`shard`, `line` in it, `places` and `rank` of every ready row, in the order of the shards."""
    parts = []
    for number, shard in enumerate(shards.of(selected)):
        keys = pl.read_parquet(shard, columns=["source", "row", "images"], glob=False).with_row_index("line")
        keys = keys.join(ready, on=["source", "row"], how="semi", maintain_order="left")
        keys = keys.with_columns(shard=pl.lit(number), places=album.find(keys["images"]))
        parts.append(keys.select(pl.col(name).cast(kind) for name, kind in ORDER.items()))
    found = pl.concat([pl.DataFrame(schema=ORDER), *parts])
    if len(found) != len(ready) or found.select("source", "row").is_duplicated().any():
        raise ValueError(
            f"of {len(ready)} rows that render's ledger says are ready, {len(found)} are in {selected}; run `dvc repro` so "
            "that both are of one run"
        )
    first = pl.col("places").list.first().fill_null(int(album.firsts[-1]))
    best = found.select(pl.arg_sort_by(first, pl.col("places").list.last(), "source", "row")).to_series().to_numpy()
    rank = np.empty(len(found), dtype=np.int64)
    rank[best] = np.arange(len(found))
    return found.with_columns(rank=pl.Series(rank))


def _deal(order: pl.DataFrame, selected: Path, folder: Path, form: Form, ask: Callable[[Example], tuple[Turn, ...]]) -> None:
    """Write the conversations in `order` to files of `ROWS_SORTED` rows in `folder`."""
    schema = pa.schema([("rank", pa.int64()), ("places", pa.list_(pa.int64())), *LABELS.items(), (form.column, form.talk)])
    with contextlib.ExitStack() as open_files:
        files: dict[int, pq.ParquetWriter] = {}
        for number, shard in enumerate(shards.of(selected)):
            here = order.filter(pl.col("shard") == number)
            rows = pq.read_table(shard, columns=example.SCHEMA.names).take(here["line"].to_arrow())
            table = _written(example.examples_of(rows), here, form, ask, schema)
            dealt = here["rank"].to_numpy() // ROWS_SORTED
            for part in np.unique(dealt).tolist():
                if part not in files:
                    path = folder / shards.name(part)
                    files[part] = open_files.enter_context(pq.ParquetWriter(path, schema, compression="none"))
                files[part].write_table(table.filter(pa.array(dealt == part)))


def _written(
    rows: Sequence[Example], order: pl.DataFrame, form: Form, ask: Callable[[Example], tuple[Turn, ...]], schema: pa.Schema
) -> pa.Table:
    columns = {
        "rank": order["rank"].to_arrow(),
        "places": order["places"].to_arrow(),
        **{name: [getattr(row, field) for row in rows] for name, field in FIELD_OF.items()},
        form.column: [form.write(ask(row)) for row in rows],
    }
    return pa.table({name: pa.array(columns[name]).cast(schema.field(name).type) for name in schema.names}, schema=schema)


def _groups(rows: pa.Table, album: Album) -> Iterator[pa.Table]:
    """`rows` a group at a time, whose pictures fit into `BYTES_A_GROUP`, or are one row's."""
    lists = rows["places"].combine_chunks()
    ends = np.cumsum(np.concatenate([[0.0], album.size(lists.flatten().to_numpy())]))
    offsets = lists.offsets.to_numpy()
    first = 0
    while first < len(rows):
        fits = int(np.searchsorted(ends[offsets], ends[offsets[first]] + BYTES_A_GROUP, side="right")) - 1
        last = max(first + 1, min(fits, first + ROWS_A_GROUP, len(rows)))
        yield rows.slice(first, last - first)
        first = last


def schema_of(form: Form, licences: Mapping[str, str | None]) -> pa.Schema:
    """The columns of what is written; `datasets` reads from it that `images` are pictures, and people the licences."""
    names = {"string": "string", "int64": "int64"}

    def value(kind: pa.DataType) -> dict[str, str]:
        return {"dtype": names[str(kind)], "_type": "Value"}

    features: dict[str, Any] = {
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        form.column: {"feature": {field: value(pa.string()) for field in form.fields}, "_type": "List"},
        **{name: value(kind) for name, kind in LABELS.items()},
    }
    about = {"huggingface": {"info": {"features": features}}, "licences": licences}
    return pa.schema(
        [("images", IMAGES), (form.column, form.talk), *LABELS.items()],
        metadata={name: json.dumps(said, ensure_ascii=False) for name, said in about.items()},
    )


PICTURES = "images.list.element.bytes"
"""The column of the pictures' bytes, as Parquet names it."""


class Shards:
    """The Parquet files of one stage, a new one each time pictures of `shard_bytes` are in it."""

    def __init__(self, place: "Destination", stage: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.place, self.stage, self.schema, self.shard_bytes = place, stage, schema, shard_bytes
        self.number, self.bytes = 0, 0
        self.file: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table, size: int) -> None:
        """Write `rows` as one group; `size`: what their pictures take, each counted once."""
        if self.file is None:
            self.file = self._opened()
        self.file.write_table(rows, row_group_size=max(len(rows), 1))
        self.bytes += size
        if self.bytes >= self.shard_bytes:
            self._close()

    def _name(self) -> str:
        return f"{self.stage}/{shards.name(self.number)}"

    def _opened(self) -> pq.ParquetWriter:
        path = self.place.folder / self._name()
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [PICTURES, "images.list.element.path", *LABELS]
        columns += [
            f"{name}.list.element.{field.name}"
            for name in self.schema.names[1:2]
            for field in self.schema.field(name).type.value_type
        ]
        return pq.ParquetWriter(
            path,
            self.schema,
            # Pictures are compressed already. Rows about one picture share its bytes in the dictionary, which must hold them.
            compression={name: "none" if name == PICTURES else "zstd" for name in columns},
            use_dictionary=True,
            dictionary_pagesize_limit=4 * BYTES_A_GROUP,
            write_statistics=list(LABELS),
        )

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.place.put(self._name())
            self.number, self.bytes, self.file = self.number + 1, 0, None

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            # A stage without rows has a file too, so that whoever reads it finds its columns.
            if self.file is None and not self.number:
                self.file = self._opened()
            self._close()
        elif self.file is not None:
            self.file.close()


OURS = re.compile(rf"(?:{'|'.join(STAGES)})/\d{{5}}\.parquet|{re.escape(CARD)}|{re.escape(MANIFEST)}")
"""What an export writes; a folder that holds anything else is not replaced by one."""


class Destination:
    """Where an export goes: a folder of this disk, which appears whole; or of another store, where the manifest comes last."""

    def __init__(self, to: str) -> None:
        """Raises `ValueError` where something lies that is no export, or the store cannot be opened."""
        self.to = to
        self.manifest: dict[str, str] = {}
        self.store: Any = None
        if "://" in to:
            self.store, self.root = opened(to)
            with told(to, "written to"):
                has_bucket(self.store, self.root)
                self.before = {name[len(self.root) :].lstrip("/") for name in self.store.find(self.root)}
        else:
            self.final = Path(to)
            if self.final.exists() and not self.final.is_dir():
                raise ValueError(f"{to} is a file; name a folder")
            self.before = {path.relative_to(self.final).as_posix() for path in self.final.rglob("*") if path.is_file()}
        if strange := sorted(name for name in self.before if not OURS.fullmatch(name)):
            raise ValueError(f"{to} holds files that no export wrote (first {strange[0]}); name a folder of its own")

    def put(self, name: str) -> None:
        """The file `name` in `folder` is whole."""
        path = self.folder / name
        with path.open("rb") as file:
            self.manifest[name] = hashlib.file_digest(file, "sha256").hexdigest()
        if self.store is not None:
            target = f"{self.root}/{name}"
            with told(self.to, "written to"):
                make_room(self.store, target)
                self.store.put_file(str(path), target)
            path.unlink()

    def write(self, name: str, text: str) -> None:
        """Write a file of text."""
        (self.folder / name).write_text(text, encoding="utf-8")
        self.put(name)

    def __enter__(self) -> "Destination":
        self.open = contextlib.ExitStack()
        WORK.mkdir(exist_ok=True)
        # Two exports to one place wait for each other.
        self.open.enter_context(alone(f"export-{digest(self.to)[:16]}", WORK))
        self.scratch = Path(self.open.enter_context(tempfile.TemporaryDirectory(prefix="export-", dir=WORK)))
        if self.store is None:
            self.folder = self.final.with_name(f".{self.final.name}.partial")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        else:
            self.folder = self.scratch
            if MANIFEST in self.before:
                with told(self.to, "written to"):
                    self.store.rm_file(f"{self.root}/{MANIFEST}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.open:
            if kind is None:
                self._finish(json.dumps(self.manifest, sort_keys=True, indent=1))
            elif self.store is None:
                shutil.rmtree(self.folder)

    def _finish(self, manifest: str) -> None:
        if self.store is None:
            (self.folder / MANIFEST).write_text(manifest, encoding="utf-8")
            if self.final.exists():
                shutil.rmtree(self.final)
            self.folder.rename(self.final)
        else:
            with told(self.to, "written to"):
                for name in self.before - self.manifest.keys() - {MANIFEST}:
                    self.store.rm_file(f"{self.root}/{name}")
                self.store.pipe_file(f"{self.root}/{MANIFEST}", manifest.encode())


def card(form: Form, counts: Mapping[str, Mapping[str, int]], about: Mapping[str, Mapping[str, Any]]) -> str:
    """What lies beside the files: which there are, for `datasets`, and for people what they hold and may be used for."""
    configs = [f"- config_name: {stage}\n  data_files: {stage}/*.parquet" for stage in counts]
    lines = [
        f"| {stage} | {source} | {rows:,} | {_told(about, source, 'origin')} | {_told(about, source, 'language')} "
        f"| {_told(about, source, 'licence')} |"
        for stage, own in counts.items()
        for source, rows in own.items()
    ]
    return "\n".join(
        [
            "---",
            "configs:",
            *configs,
            "---",
            "",
            "# Visual instructions, as Tandem renders them",
            "",
            f"Every row whose loss mask was proved, as the model is asked: `images`, and the conversation in `{form.column}`.",
            "The pictures stand before the first question. `source` and `row` name a row in the ledger.",
            "",
            "| tuning stage | source | rows | answers by | language | licence |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _told(about: Mapping[str, Mapping[str, Any]], source: str, what: str) -> str:
    # A bar would end the table's cell, and a line its row.
    return " ".join(str(about.get(source, {}).get(what) or "not declared").replace("|", "\\|").split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.corpus.export", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
