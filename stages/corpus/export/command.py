"""What `python -m stages.corpus export` does."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stages.corpus import ledger
from stages.corpus.example import IMAGE, Example, Turn
from stages.corpus.export.album import Album
from stages.corpus.export.card import card
from stages.corpus.export.destination import CARD, Destination
from stages.corpus.export.files import Shards
from stages.corpus.export.forms import FORMS, Form, schema_of
from stages.corpus.export.order import conversations
from stages.corpus.instructions import Instructions, Suffixes, conversation, read_instructions
from stages.corpus.ledger import TUNING
from stages.running.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command may be told."""
    parser.add_argument("--to", required=True, help="where to write: a folder, or a URL of another store (s3://bucket/folder)")
    parser.add_argument("--form", choices=FORMS, default="messages", help="how conversations are written (messages)")
    parser.add_argument(
        "--stage", choices=[*TUNING, "all"], default="all", help="the tuning stage whose rows are written (all)"
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
            TUNING if arguments.stage == "all" else (arguments.stage,),
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
    each row and picture, the conversations of `order.ROWS_SORTED` rows and the pictures of some groups of rows.

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
