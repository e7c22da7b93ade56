"""The contract's page: what it shows of a run, and what it may not open to show it."""

import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest

from stages.corpus.drift import Drift, Part
from stages.corpus.example import Example, Turn
from stages.corpus.images import ImageWriter
from stages.pages import contract
from stages.pages.contract import PARTS_SHOWN, Clause, Told, bin_name, most_moved, write_contract

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "<script>alert(1)</script>\0"
TASK = {"median_answer_words": 3, "long_answer_words": 9, "yes_share": None, "answer_share": 0.5}


def broken(*images, turns=2, text="Hi", **more):
    fields = {"id": "7", "task": "t", "domain": "", "kind": "short", "origin": "human", "templated": False, **more}
    spoken = tuple(Turn(("user", "assistant")[number % 2], text) for number in range(turns))
    return Example("s", 3, images=images, turns=spoken, **fields)


def told(*examples, tasks=(), drifts=None, stopped=()):
    clauses = [
        Clause("kind_is_known", "The kind is known.", "quarantine", 10, len(examples), examples),
        Clause("id_is_its_own", "No other has it.", "warn", 10, 0, ()),
    ]
    of_tasks = [Clause("task_has_rows", "A task has rows.", "warn", 1, sum(bool(task["broken"]) for task in tasks), ())]
    schema = {"source": pl.String, "task": pl.String, "rows": pl.Int64, "median_answer_words": pl.Int32}
    schema |= {"long_answer_words": pl.Int32, "yes_share": pl.Float64, "answer_share": pl.Float64, "broken": pl.List(pl.String)}
    return Told(
        stopped=stopped,
        rows=10,
        quarantined=len(examples),
        warned=0,
        clauses=clauses,
        task_clauses=of_tasks,
        tasks=pl.DataFrame(list(tasks), schema=schema),
        drifts=drifts,
        accepted="june",
        sources=[{"name": "s", "licence": "MIT", "language": NASTY, "rows": 10, "unreadable": 1, "quarantined": 2}],
    )


def written(folder, run, stores=()):
    write_contract(folder / "contract.html", stores, run)
    return (folder / "contract.html").read_text()


@pytest.fixture
def store(tmp_path, png):
    """Three hundred pictures in groups of a hundred, and their names."""
    with ImageWriter(tmp_path / "s", 1) as writer:
        names = [writer.add(png((number % 256, number // 256, 7))) for number in range(300)]
        names.append(writer.add(b"no picture"))
    return tmp_path / "s", names


def test_only_the_groups_that_hold_a_wanted_picture_are_read(tmp_path, store, monkeypatch):
    folder, names = store
    read = []
    group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, number, **more: read.append(number) or group(self, number, **more)
    )
    html = written(tmp_path, told(broken(names[150]), broken(names[151], names[3])), [folder])
    assert html.count('src="data:image/png') == 3
    assert sorted(read) == [0, 1]


def test_what_did_not_decode_is_never_decoded_again(tmp_path, store, monkeypatch):
    folder, names = store
    monkeypatch.setattr(contract, "picture", lambda content: pytest.fail("a decoder was asked"))
    html = written(tmp_path, told(broken(names[-1]), broken("no such picture")), [folder])
    assert html.count(">no picture</span>") == 2


def test_a_row_of_many_turns_and_pictures_is_cut_and_says_so(tmp_path):
    html = written(tmp_path, told(broken(*"abcdefg", turns=40, text="word " * 1000, task="t" * 1000)))
    assert "and 3 more pictures" in html
    assert "and 34 more turns" in html
    assert len(html) < 60_000


def test_whatever_data_holds_is_shown_as_text(tmp_path):
    tasks = [{"source": NASTY, "task": NASTY, "rows": 1, "broken": ["task_has_rows"], **TASK}]
    drifts = [Drift("task_mix", 0.5, 0.01, (Part(NASTY, 0.1, 0.9, 0.5),))]
    row = broken(text=NASTY, task=NASTY, kind=NASTY, id=NASTY, origin=NASTY)
    html = written(tmp_path, told(row, tasks=tasks, drifts=drifts, stopped=[NASTY]))
    assert "<script>alert" not in html
    assert "\0" not in html


def test_tasks_that_break_something_come_first(tmp_path):
    tasks = [{"source": "s", "task": f"task{number}", "rows": 5, "broken": [], **TASK} for number in range(700)]
    tasks[699]["broken"] = ["task_has_rows"]
    html = written(tmp_path, told(tasks=tasks))
    assert html.index(">task699<") < html.index(">task0<")
    assert "And 200 more tasks" in html


def test_the_parts_that_moved_most_are_drawn_and_bins_have_both_ends():
    parts = tuple(Part(f"task{number:02d}", 0.1, 0.2, number / 1000) for number in range(20))
    shown = most_moved(Drift("task_mix", 0.1, 0.01, parts))
    assert [part.name for part in shown] == [f"task{number:02d}" for number in range(20 - PARTS_SHOWN, 20)]
    assert [bin_name("answer_words", name) for name in ("0", "1", "2", "4", "8")] == ["0", "1", "2", "3 to 4", "5 to 8"]
    assert bin_name("task_mix", "8") == "8", "a task may have a number for a name"


def test_a_run_that_stopped_says_why_and_links_no_page_that_was_not_written(tmp_path):
    html = written(tmp_path, told(broken(), stopped=["too many rows of 's'"]))
    assert "The run stopped here" in html
    assert "too many rows of &#39;s&#39;" in html
    assert "docs/index.html" not in html
    assert "docs/index.html" in written(tmp_path, told(broken()))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_fits_and_asks_for_nothing(tmp_path, store, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    folder, names = store
    tasks = [{"source": "s", "task": "a+" + "long_" * 30, "rows": 5, "broken": ["task_has_rows"], **TASK}]
    drifts = [Drift("task_mix", 0.5, 0.01, (Part("s · " + "long_" * 30, 0.1, 0.9, 0.5), Part("b", 0.9, 0.1, 0.5)))]
    written(
        tmp_path, told(broken(names[0], names[-1], text="w" * 900), tasks=tasks, drifts=drifts, stopped=["x" * 500]), [folder]
    )
    address = (tmp_path / "contract.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        assert said == [], "the page complains, or something in it was forbidden"
        assert [url for url in asked if not url.startswith("data:")] == [address]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
