"""What `python -m stages.corpus ledger` tells of a corpus of one source, `cats`, and of five rows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus import account, example, ledger
from stages.corpus.__main__ import main
from stages.corpus.example import Example, Turn
from stages.corpus.images import ImageWriter
from stages.corpus.ledger import ON, Line
from stages.trees import tree
from stages.trees.tree import Branch, Tree

PROJECT = Path(__file__).parents[3]
ANSWERS = ["Black.", "", "Black.", "Grey\x1b[31m."]
"""Of rows 1 to 4; row 0 could not be read."""
MEETINGS: dict[str, list[tuple[int, str, str]]] = {
    "ingest/cats": [(0, "unreadable", "missing_image: gone.png"), *((row, ON, "") for row in (1, 2, 3, 4))],
    "validate": [(1, ON, ""), (2, "quarantined", "answers_not_empty"), (3, ON, ""), (4, ON, "")],
    "curate": [(1, ON, ""), (3, "duplicate", "exact: cats:1"), (4, ON, "")],
    "render": [(1, "ready", "train"), (4, "ready", "align")],
    "train": [(1, "trained", "train: 2 epochs, steps 3 8")],
    "align": [(1, ON, "align: replayed, 1 epoch, step 2"), (4, "trained", "align: 1 epoch, step 1")],
}
"""What each stage says of each row it met."""


@pytest.fixture
def data(tmp_path: Path, png: Any) -> Path:
    with ImageWriter(tmp_path / "ingest/cats", shard_mib=1) as store:
        digest = store.add(png("black"))
    rows = [
        Example("cats", row, f"cat-{row}", "coat", "animals", "short", "human", (digest,),
                (Turn("user", "<image>\nWhich coat?"), Turn("assistant", answer)), False)
        for row, answer in enumerate(ANSWERS, start=1)
    ]  # fmt: skip
    for shard, first in (("00000.parquet", 0), ("00001.parquet", 2)):
        example.write(tmp_path / "ingest/cats/examples" / shard, rows[first : first + 2])
    for folder, met in MEETINGS.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        file = "cats.json" if folder == "ingest/cats" else ""
        lines = [Line("cats", row, f"cat-{row}", "coat", state, reason, file) for row, state, reason in met]
        ledger.write(tmp_path / folder / "ledger.parquet", lines)
    broken = pa.array([["answers_not_empty"]], pa.list_(pa.string()))
    quarantine = example.table_of(rows[1:2]).append_column("broken", broken)
    pq.write_table(quarantine, tmp_path / "validate/quarantine.parquet")
    (tmp_path / "validate/contract.json").write_text(json.dumps({"answers_not_empty": "No answer is empty."}))
    branches = tuple(Branch("cats", row, "coat", "short", (7, 8, 9, 1), (False, False, True, True)) for row in (1, 9))
    tree.write(tmp_path / "render/train/00000.parquet", [Tree((), (2,), ()), Tree((digest,), (2, 3), branches)])
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: Path, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["corpus", "ledger", "--data", str(data), *words])
    status = main()
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function of the folder and the command's words that gives its exit status, and what it prints and complains of."""
    return lambda data, *words: told(capsys, monkeypatch, data, *words)


FUNNEL = """\
5 rows; so far ingest, validate, curate, render, train, align have run
not run yet: connect

                                     not   quaran-       not
source                    rows      read     tined    chosen   trained
cats                         5         1         1         1         2
all                          5         1         1         1         2
                       100.0 %    20.0 %    20.0 %    20.0 %    40.0 %

stage     state            reason                                                     rows     share
ingest    unreadable       missing_image                                                 1    20.0 %
validate  quarantined      answers_not_empty                                             1    20.0 %
curate    duplicate        exact                                                         1    20.0 %
tuning    trained          align                                                         1    20.0 %
tuning    trained          train                                                         1    20.0 %
all                                                                                      5   100.0 %
"""


def test_the_funnel_is_told_by_source_and_by_reason(data, ask):
    status, said, _ = ask(data)
    assert (status, "\n".join(line.rstrip() for line in said.splitlines()) + "\n") == (0, FUNNEL)


@pytest.mark.parametrize(("by", "name"), [("task", "coat"), ("file", "cats.json"), ("source", "cats")])
def test_rows_are_counted_by_task_or_file_too(data, ask, by, name):
    _, said, _ = ask(data, "--by", by)
    assert [line.split() for line in said.splitlines()[4:6]] == [
        [by, "rows", "read", "tined", "chosen", "trained"],
        [name, "5", "1", "1", "1", "2"],
    ]
    counts = json.loads(ask(data, "--by", by, "--json")[1])[f"by_{by}"]
    assert counts[0] == {by: name, "state": counts[0]["state"], "rows": 1 + (counts[0]["state"] == "trained")}
    assert sum(one["rows"] for one in counts) == 5


def test_no_line_is_wider_than_a_terminal_whatever_the_names_are(tmp_path, ask):
    states = [*ledger.STATES]
    ways = [(row, state) for row, state in enumerate(states) if state not in ("trained", "unseen")]
    for place, stage in enumerate(ledger.CHAIN):
        folder = tmp_path / stage / ("s" * 60 if stage == "ingest" else "")
        folder.mkdir(parents=True)
        met = [(row, state) for row, state in ways if ledger.CHAIN.index(ledger.STATES[state]) >= place]
        lines = [
            Line(
                "s" * 60, row, "", "task\n" * 30, *((state, "r" * 90) if ledger.STATES[state] == stage else (ON, "")), "f" * 200
            )
            for row, state in met
        ]
        ledger.write(folder / "ledger.parquet", lines)
    for by in account.BY:
        lines = ask(tmp_path, "--by", by)[1].splitlines()
        assert max(map(len, lines)) <= account.WIDTH
        assert "…" in lines[-2 if by == "reason" else -3]


def test_in_the_middle_of_the_chain_it_says_what_has_not_run(data, ask):
    (data / "curate/ledger.parquet").unlink()
    _, said, _ = ask(data)
    assert said.splitlines()[:3] == [
        "5 rows; so far ingest, validate have run",
        "not run yet: curate, connect",
        "not counted, of an earlier run: render, train, align",
    ]
    assert "on their" in said
    said = ask(data, "--row", "cats:4")[1]
    assert "  curate    -  (has not run)\n  render    ready          align  (of another run: run `dvc repro`)\n" in said
    assert json.loads(ask(data, "--row", "cats:4", "--json")[1])["state"] == ON


def test_ledgers_that_do_not_add_up_are_told_with_exit_status_2(data, ask):
    ledger.write(data / "curate/ledger.parquet", [Line("cats", 1, "", "", ON)])
    status, said, complaint = ask(data)
    assert (status, said) == (2, "")
    assert "ledger: the ledgers do not add up at curate: 2 rows lost (first ['cats:3', 'cats:4'])" in complaint
    note = "its ledger does not have the row, so it is of another run: run `dvc repro`"
    assert note in ask(data, "--row", "cats:3")[1]


TRAINED = """\
cats:1
  file      cats.json
  id        cat-1
  task      coat
  kind      short
  origin    human

  ingest    on
  validate  on
  curate    on
  render    ready          train
  train     trained        train: 2 epochs, steps 3 8
  align     on             align: replayed, 1 epoch, step 2
  tokens    4 of its own behind 2 of the prefix, 2 supervised
            in a tree of 2 rows

  picture 1 {digest}, {size} bytes, 24 x 24 pixels, whole
  user      <image>
            Which coat?
  assistant Black.
"""


def test_a_trained_rows_story_goes_from_its_file_to_its_steps(data, ask, png):
    (digest,) = pq.read_table(data / "ingest/cats/images", columns=["sha256"])["sha256"].to_pylist()
    assert ask(data, "--row", "cats:1")[:2] == (0, TRAINED.format(digest=digest, size=len(png("black"))))


def test_a_quarantined_rows_story_says_what_the_expectation_means(data, ask):
    said = ask(data, "--row", "cats:2")[1]
    assert "  validate  quarantined    answers_not_empty\n  breaks    answers_not_empty: No answer is empty.\n" in said


def test_a_duplicates_story_shows_its_twin(data, ask):
    said = ask(data, "--row", "cats:3")[1]
    assert "  curate    duplicate      exact: cats:1\n" in said
    assert "\ncats:1, which the reason names: trained train: 2 epochs, steps 3 8\n" in said
    assert said.count("assistant Black.") == 2


def test_a_contaminated_rows_story_names_every_item_that_it_is_like(data, ask):
    ledger.write(data / "curate/ledger.parquet", [Line("cats", 4, "", "", "contaminated", "mme: item 7, its picture")])
    items = [
        {"source": "cats", "row": 4, "benchmark": "mme", "item": item, "by": "picture", "distance": bits, "overlap": None}
        for item, bits in (("7", 0), ("9", 3))
    ]
    pq.write_table(pa.Table.from_pylist(items), data / "curate/contaminated.parquet")
    assert "  like      benchmark mme, item 9, by picture, distance 3\n" in ask(data, "--row", "cats:4")[1]


def test_a_row_that_could_not_be_read_has_no_conversation(data, ask):
    said = ask(data, "--row", "cats:0")[1]
    assert "  ingest    unreadable     missing_image: gone.png\n\n  no example was made of it\n" in said
    assert "validate" not in said


def test_what_a_terminal_would_obey_is_written_out(data, ask):
    said = ask(data, "--row", "cats:4")[1]
    assert "Grey\\x1b[31m." in said
    assert "\x1b" not in said


def test_a_story_as_json_has_all_of_it(data, ask):
    found = json.loads(ask(data, "--row", "cats#1", "--json")[1])
    assert found["state"] == "trained"
    assert found["tokens"] == {"prefix": 2, "own": 4, "supervised": 2, "rows_of_the_tree": 2}
    assert [one["stage"] for one in found["stages"]] == ["ingest", "validate", "curate", "render", "train", "align"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--row", "cats:5"], "source 'cats' has no row 5; it has rows 0 to 4"),
        (["--row", "dogs:5"], "no source 'dogs' has been ingested; there are cats"),
        (["--row", "cats"], "--row wants a source and a row's number, as tasks:17, got 'cats'"),
        (["--state", "lost"], "there is no state 'lost'; there are unreadable, "),
        (["--state", "ready", "--limit", "0"], "--limit must be at least 1, got 0"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(data, ask, words, complaint):
    status, said, complained = ask(data, *words)
    assert (status, said) == (2, "")
    assert complaint in complained


def test_a_folder_without_a_ledger_is_told_as_one(tmp_path, ask):
    assert "no source has been ingested in" in ask(tmp_path)[2]


def test_rows_of_a_state_are_listed_up_to_a_limit(data, ask):
    assert ask(data, "--state", "trained", "--limit", "1")[1].splitlines() == [
        "cats:1  train: 2 epochs, steps 3 8  (id cat-1, task coat, cats.json)",
        "2 rows are trained; 1 are listed, --limit lists more",
    ]
    assert json.loads(ask(data, "--state", "ready", "--json")[1]) == {"state": "ready", "rows": 0, "listed": []}


def test_one_row_is_found_without_reading_the_other_shards(data, ask):
    other = data / "ingest/cats/examples/00001.parquet"
    content = bytearray(other.read_bytes())
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:end] = bytes(end - 4)  # all but its end, which says what rows it has
    other.write_bytes(content)
    assert "Black." in ask(data, "--row", "cats:1")[1]
    assert ask(data, "--row", "cats:4")[0] == 2


def test_it_is_a_command(data):
    words = [sys.executable, "-m", "stages.corpus", "ledger", "--data", str(data), "--state", "duplicate"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 rows are duplicate"
