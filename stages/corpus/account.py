"""What `python -m stages.corpus ledger` tells: how many rows ended where and why, or the whole story of one of them.

It stands outside of the chain and works at any point of it: what has not run yet is said to be so.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stages.corpus import ledger, shards
from stages.corpus.ledger import CHAIN, ON, STATES, TUNING
from stages.corpus.pictures import read_rows

WIDTH = 100
"""Columns of what is printed."""
NAME, NUMBER = 20, 10
"""Columns of a table's first column, and of each number."""
LONGEST = 2000
"""Characters of a text that are printed; `--json` gives all of it."""
BY = ("source", "task", "file", "reason")
OWN_WAY = {"held_out": ("held", "out"), "ready": ("", "ready"), "unseen": ("", "ready"), "trained": ("", "trained")}
LOST_AT = {
    "ingest": ("not", "read"),
    "validate": ("quaran-", "tined"),
    "curate": ("not", "chosen"),
    "render": ("not", "rendered"),
}
WAYS = {state: OWN_WAY.get(state) or LOST_AT[stage] for state, stage in STATES.items()} | {ON: ("on their", "way")}
"""State → the column, named in two lines, in which it is counted: what one stage ended is counted together."""
TWIN = re.compile(r": ([\w-]+):(\d+)")
"""How a duplicate's reason names another row: `exact: tasks:17`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command may be told."""
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the stages' outputs (data)")
    parser.add_argument("--by", choices=BY, help="count rows by this alone; without it by source, and by reason")
    parser.add_argument("--row", metavar="SOURCE:ROW", help="tell the whole story of one row")
    parser.add_argument("--state", metavar="STATE", help=f"list rows that ended in a state: {', '.join([*STATES, ON])}")
    parser.add_argument("--limit", type=int, default=20, help="rows that --state lists (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for; exit status 2, with one plain message, where it cannot be told."""
    try:
        found, words = _asked(arguments)
    except (ValueError, OSError) as error:
        print(f"\nledger: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, ensure_ascii=False, indent=1) if arguments.json else "\n".join(words(found)))
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[Any, Callable[[Any], Iterator[str]]]:
    """What is asked for as plain values, and what writes these as lines of text."""
    data: Path = arguments.data
    if not any((data / CHAIN[0]).glob("[!.]*/ledger.parquet")):
        raise ValueError(f"no source has been ingested in {data}: run `dvc repro`, or name the stages' folder with --data")
    if arguments.row is not None:
        return story(data, *_named(arguments.row)), story_lines
    if arguments.state is not None:
        return listed(data, arguments.state, arguments.limit), listed_lines
    return counted(data, (arguments.by,) if arguments.by else ("source", "reason")), counted_lines


# Counting


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the chain has come, and where each row stands in it."""

    final: pl.DataFrame
    """As `ledger.join` gives it."""
    ran: tuple[str, ...]
    """The stages that are counted, in their order."""
    waiting: tuple[str, ...]
    """Those that have not run."""
    older: tuple[str, ...]
    """Those that have run, but before one that has not: their ledgers are of another run."""


def standing(data: Path) -> Standing:
    """The ledgers below `data`, joined as far as the stages have run.

    Raises:
        ValueError: they do not add up.
    """
    ran = [CHAIN[0]]
    for stage in CHAIN[1:]:
        if not _ledger(data, stage).is_file():
            break
        ran.append(stage)
    whole = len(ran) == len(CHAIN)
    tuned = ledger.read_tuned(data / stage for stage in TUNING) if whole else {}
    final = ledger.join(ledger.read_parts(*(data / stage for stage in ran)), tuned, whole)
    others = [stage for stage in (*CHAIN, *TUNING) if stage not in (*ran, *tuned)]
    older = [stage for stage in others if _ledger(data, stage).is_file()]
    return Standing(final, (*ran, *tuned), tuple(stage for stage in others if stage not in older), tuple(older))


def _ledger(data: Path, stage: str) -> Path:
    return data / stage / "ledger.parquet"


def counted(data: Path, by: Sequence[str]) -> dict[str, Any]:
    """Rows counted `by` each of some columns, and by state; by reason its name counts, and the state and stage say whose."""
    found = standing(data)
    final = found.final.with_columns(reason=ledger.reason_names())
    told: dict[str, Any] = {"rows": len(final), "ran": found.ran, "waiting": found.waiting, "older": found.older}
    for column in by:
        counts = final.group_by(column, "state").agg(rows=pl.len()).to_dicts()
        counts.sort(key=lambda one: (ledger.order_of(one["state"]), one["reason"]) if column == "reason" else one[column])
        told[f"by_{column}"] = counts
    return told


def counted_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """`counted` as tables, with sums and shares."""
    yield f"{told['rows']:,} rows; so far {', '.join(told['ran'])} have run"
    if told["waiting"]:
        yield f"not run yet: {', '.join(told['waiting'])}"
    if told["older"]:
        yield f"not counted, of an earlier run: {', '.join(told['older'])}"
    for name in BY:
        if f"by_{name}" in told:
            yield ""
            yield from _reasons(told) if name == "reason" else _ways(told, name)


def _ways(told: Mapping[str, Any], name: str) -> Iterator[str]:
    """A line for each source, task or file, a column for each way that rows may go."""
    groups: dict[str, dict[str, int]] = {}
    for one in told[f"by_{name}"]:
        groups.setdefault(one[name], {})[one["state"]] = one["rows"]
    sums = dict.fromkeys(WAYS.values(), 0)
    for one in told[f"by_{name}"]:
        sums[WAYS[one["state"]]] += one["rows"]
    gone = [way for way, rows in sums.items() if rows]
    yield _line("", "", *(upper for upper, _ in gone))
    yield _line(name, "rows", *(lower for _, lower in gone))
    for group, states in groups.items():
        numbers = [sum(rows for state, rows in states.items() if WAYS[state] == way) for way in gone]
        yield _line(group or "(none)", sum(states.values()), *numbers)
    yield _line("all", told["rows"], *(sums[way] for way in gone))
    yield _line("", _share(told["rows"], told), *(_share(sums[way], told) for way in gone))


def _reasons(told: Mapping[str, Any]) -> Iterator[str]:
    """A line for each state and reason, in the order of the chain."""
    room = WIDTH - 2 * NUMBER - 27
    yield f"{'stage':<10}{'state':<17}{'reason':<{room}}{'rows':>{NUMBER}}{'share':>{NUMBER}}"
    for one in told["by_reason"]:
        stage = STATES.get(one["state"], "")
        reason = _short(one["reason"], room - 1)
        start = f"{stage:<10}{one['state']:<17}{reason:<{room}}"
        yield f"{start}{one['rows']:>{NUMBER},}{_share(one['rows'], told):>{NUMBER}}"
    yield f"{'all':<{WIDTH - 2 * NUMBER}}{told['rows']:>{NUMBER},}{_share(told['rows'], told):>{NUMBER}}"


def _line(name: str, *cells: str | int) -> str:
    shown = (f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
    return f"{_short(name, NAME - 1):<{NAME}}" + "".join(f"{cell:>{NUMBER}}" for cell in shown)


def _share(rows: int, told: Mapping[str, Any]) -> str:
    return f"{100 * rows / told['rows']:.1f} %" if told["rows"] else ""


def _short(name: str, room: int) -> str:
    """A name on one line, with its middle left out where it is longer than `room` characters."""
    name = _visible(" ".join(name.split()))
    half = (room - 1) // 2
    return name if len(name) <= room else f"{name[: room - 1 - half]}…{name[-half:]}"


def listed(data: Path, state: str, limit: int) -> dict[str, Any]:
    """Rows that ended in `state`, at most `limit` of them, and how many there are."""
    if state not in (*STATES, ON):
        raise ValueError(f"there is no state {state!r}; there are {', '.join([*STATES, ON])}")
    if limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    rows = standing(data).final.filter(pl.col("state") == state)
    return {"state": state, "rows": len(rows), "listed": rows.head(limit).drop("state").to_dicts()}


def listed_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """`listed`, a row a line."""
    for one in told["listed"]:
        yield _visible(f"{one['source']}:{one['row']}  {one['reason']}  (id {one['id']}, task {one['task']}, {one['file']})")
    more = f"; {len(told['listed']):,} are listed, --limit lists more" if told["rows"] > len(told["listed"]) else ""
    yield f"{told['rows']:,} rows are {told['state']}{more}"


# One row


def story(data: Path, source: str, row: int) -> dict[str, Any]:
    """All that the stages' outputs below `data` say of a row.

    Raises:
        ValueError: there is no such source or row.
    """
    _check_named(data, source, row)
    (first,) = _rows([data / CHAIN[0] / source / "ledger.parquet"], source, row)
    stages = list(_met(data, source, row))
    said = {one["stage"]: one for one in stages}
    examples = _rows(shards.of(data / CHAIN[0] / source / "examples"), source, row)
    given = examples[0] if examples else {}
    return {
        **{name: first[name] for name in ("source", "row", "file", "id", "task")},
        "stages": stages,
        **_end(stages),
        **({name: given[name] for name in ("kind", "domain", "origin", "templated", "turns")} if given else {}),
        "images": _pictures(data / CHAIN[0], source, given["images"]) if given else [],
        "broken": _broken(data / "validate", source, row),
        "contaminated_by": _contaminated_by(data / "curate", source, row),
        "twin": _twin(data, said.get("curate", {})),
        "tokens": _tokens(data / "render", source, row, said.get("render", {})),
    }


def _named(name: str) -> tuple[str, int]:
    source, _, row = name.replace("#", ":").rpartition(":")
    if not source or not row.isdecimal():
        raise ValueError(f"--row wants a source and a row's number, as tasks:17, got {name!r}")
    return source, int(row)


def _check_named(data: Path, source: str, row: int) -> None:
    paths = {path.parent.name: path for path in (data / CHAIN[0]).glob("[!.]*/ledger.parquet")}
    if source not in paths:
        raise ValueError(f"no source {source!r} has been ingested; there are {', '.join(sorted(paths))}")
    rows = pq.read_metadata(paths[source]).num_rows
    if row >= rows:
        known = f"it has rows 0 to {rows - 1}" if rows else "it has none"
        raise ValueError(f"source {source!r} has no row {row}; {known}")


def _rows(paths: Sequence[Path], source: str, row: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The row's lines in `paths`; of these only such groups of rows are read as may hold it, as their statistics say."""
    if not paths:
        return []
    table = ds.dataset([str(path) for path in paths], format="parquet")
    found = table.to_table(columns, filter=(pc.field("source") == source) & (pc.field("row") == row), use_threads=False)
    return list(found.to_pylist())


def _met(data: Path, source: str, row: int) -> Iterator[dict[str, Any]]:
    """What each stage did with the row: its state and reason, both null where the stage never met it, and a note why."""
    state: str | None = ON
    ready = ""
    for stage in (*CHAIN, *TUNING):
        path = data / stage / source / "ledger.parquet" if stage == CHAIN[0] else _ledger(data, stage)
        there = path.is_file()
        found = _rows([path], source, row, ["state", "reason"]) if there else []
        wanted = state == ON if stage in CHAIN else ready == stage
        if found:
            note = "" if wanted or (stage in TUNING and found[0]["state"] == ON) else "of another run: run `dvc repro`"
            yield {"stage": stage, **found[0], "note": note}
        elif wanted:
            note = "its ledger does not have the row, so it is of another run: run `dvc repro`" if there else "has not run"
            yield {"stage": stage, "state": None, "reason": None, "note": note}
        if stage in CHAIN and wanted:
            state = found[0]["state"] if found else None
            ready = found[0]["reason"] if found and state == "ready" else ""


def _end(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The state in which the row ended, with its reason; what a ledger of another run says does not count."""
    ended = [one for one in stages if one["state"] not in (None, ON) and not one["note"]]
    return {name: ended[-1][name] for name in ("state", "reason")} if ended else {"state": ON, "reason": ""}


def _pictures(ingested: Path, source: str, digests: Sequence[str]) -> list[dict[str, Any]]:
    """Of each of the row's pictures its sha256, size in bytes and in pixels, and whether it is whole."""
    columns = ["sha256", "bytes", "width", "height", "whole"]
    found: dict[str, dict[str, Any]] = {}
    for rows in read_rows(shards.of(ingested / source / "images"), columns, set(digests)):
        rows = rows.set_column(columns.index("bytes"), "bytes", pc.binary_length(rows["bytes"]))
        found |= {one["sha256"]: one for one in rows.to_pylist()}
    return [found.get(digest, {"sha256": digest}) for digest in digests]


def _broken(validated: Path, source: str, row: int) -> list[dict[str, str]]:
    """The expectations that the row breaks, and what each means."""
    path, meanings = validated / "quarantine.parquet", validated / "contract.json"
    found = _rows([path], source, row, ["broken"]) if path.is_file() else []
    meaning = json.loads(meanings.read_text(encoding="utf-8")) if meanings.is_file() else {}
    return [{"expectation": name, "meaning": meaning.get(name, "")} for one in found for name in one["broken"]]


def _contaminated_by(curated: Path, source: str, row: int) -> list[dict[str, Any]]:
    """The benchmarks' items that the row is too like, each with how near it is; the ledger's reason names the first alone."""
    path = curated / "contaminated.parquet"
    found = _rows([path], source, row) if path.is_file() else []
    return [{name: value for name, value in one.items() if name not in ("source", "row")} for one in found]


def _twin(data: Path, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """The other row that a duplicate's reason names: its id, where it ended, and what it says."""
    found = TWIN.search(said["reason"]) if said.get("state") == "duplicate" else None
    if found is None or not (data / CHAIN[0] / found[1] / "ledger.parquet").is_file():
        return None
    source, row = found[1], int(found[2])
    given = _rows(shards.of(data / CHAIN[0] / source / "examples"), source, row, ["id", "images", "turns"])
    return {
        "source": source,
        "row": row,
        **_end(_met(data, source, row)),
        **(given[0] if given else {}),
    }


def _tokens(rendered: Path, source: str, row: int, said: Mapping[str, Any]) -> dict[str, int] | None:
    """How many tokens the row became, if it was rendered: those before its branch, its own, and those supervised."""
    if said.get("state") != "ready":
        return None
    names = [f"branches.list.element.{name}" for name in ("source", "row")]
    for shard in shards.of(rendered / str(said["reason"])):
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                # Two narrow columns of all trees, and the tokens of the one group that has the row.
                branches = file.read_row_group(group, names)["branches"].combine_chunks()
                flat = branches.flatten()
                here = pc.and_(pc.equal(flat.field("source"), source), pc.equal(flat.field("row"), row))
                places = pc.indices_nonzero(here).to_pylist()
                if places:
                    tree = pc.list_parent_indices(branches)[places[0]].as_py()
                    return _sizes(file.read_row_group(group).slice(tree, 1).to_pylist()[0], source, row)
    return None


def _sizes(tree: Mapping[str, Any], source: str, row: int) -> dict[str, int]:
    own = next(one for one in tree["branches"] if (one["source"], one["row"]) == (source, row))
    return {
        "prefix": len(tree["prefix"]),
        "own": len(own["ids"]),
        "supervised": sum(own["supervised"]),
        "rows_of_the_tree": len(tree["branches"]),
    }


def story_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """`story` as text."""
    yield f"{told['source']}:{told['row']}"
    for name in ("file", "id", "task", "kind", "origin"):
        if told.get(name):
            yield _visible(f"  {name:<10}{told[name]}")
    yield ""
    for one in told["stages"]:
        words = f"{one['state'] or '-':<15}{one['reason'] or ''}".rstrip()
        yield _visible(f"  {one['stage']:<10}{words}") + (f"  ({one['note']})" if one["note"] else "")
    for one in told["broken"]:
        yield f"  breaks    {one['expectation']}: {one['meaning']}".removesuffix(": ")
    for one in told["contaminated_by"]:
        words = ", ".join(f"{name} {value}" for name, value in one.items() if value is not None)
        yield _visible(f"  like      {words}")
    if told["tokens"]:
        yield "  tokens    {own} of its own behind {prefix} of the prefix, {supervised} supervised".format(**told["tokens"])
        yield "            in a tree of {rows_of_the_tree} rows".format(**told["tokens"])
    yield ""
    yield from _conversation(told, "no example was made of it")
    if told["twin"]:
        twin = told["twin"]
        yield ""
        yield _visible(f"{twin['source']}:{twin['row']}, which the reason names: {twin['state']} {twin['reason']}".rstrip())
        yield from _conversation(twin, "no example was made of it")


def _conversation(told: Mapping[str, Any], without: str) -> Iterator[str]:
    if "turns" not in told:
        yield f"  {without}"
        return
    for number, image in enumerate(told.get("images") or [], start=1):
        yield f"  picture {number} {_picture(image)}"
    if told.get("templated"):
        yield "  (templated: the first question is bare input, before which render sets an instruction)"
    for turn in told["turns"]:
        text = turn["text"]
        more = f" … ({len(text):,} characters)" if len(text) > LONGEST else ""
        yield f"  {_visible(turn['role']):<10}{_visible(text[:LONGEST], chr(10) + ' ' * 12)}{more}"


def _picture(image: str | Mapping[str, Any]) -> str:
    if isinstance(image, str):
        return image
    if "bytes" not in image:
        return f"{image['sha256']}: not in the source's store"
    size = f"{image['width']} x {image['height']} pixels" if image["width"] else "of unknown size"
    whole = {True: "whole", False: "broken", None: "too large to be decoded"}[image["whole"]]
    return f"{image['sha256']}, {image['bytes']:,} bytes, {size}, {whole}"


def _visible(text: str, newline: str = "\\n") -> str:
    """`text` without what a terminal obeys; ends of lines become `newline`."""
    return "".join(newline if letter == "\n" else letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
