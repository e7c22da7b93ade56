"""The certificate's page: whole without a network, true to the mask, and small at two hundred tasks."""

import re
import shutil
from array import array
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from tokenizers import Tokenizer, models

from stages.corpus.images import ImageWriter
from stages.pages.certificate import A_TASK, REFUSED_SHOWN, Proof, write_certificate

CHECKS = {"template": "the prompt is a prefix", "answer": "the answer is learnt to the letter"}
NASTY = "<script>alert('x')</script> & \"<b>bold</b>\""
WORDS = ["<image>", "Q", "what", "is", "it", "A", "red", "blue", "</s>"]
SIZES = {"trees": 3, "branches": 5, "tokens": 80, "supervised_tokens": 8, "tokens_as_separate_rows": 120}


@pytest.fixture
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="what"))
    made.add_special_tokens(["<image>", "</s>"])
    return made


def sample(task: str, row: int, image: str = "", words: int = 0) -> dict[str, Any]:
    ids = [1, 2, 3, 4, *[2] * words, 5, 6, 8]
    return {
        "source": "s",
        "row": row,
        "task": task,
        "kind": "short",
        "images": [image] if image else [],
        "draw": row,
        "prefix": array("i", [0] * 40 if image else []).tobytes(),
        "ids": ids,
        "supervised": [False] * (len(ids) - 2) + [True] * 2,
    }


def proof(stage: str, samples: list[dict[str, Any]], refused: list[dict[str, Any]] | None = None) -> Proof:
    rows = {"ready": 1000, "too_long": 2, "uncertified": 30} if refused else {"ready": 1000}
    failed = {"answer": 30} if refused else {}
    empty = {"source": "", "row": 0, "task": "", "state": "", "reason": ""}
    return Proof(
        stage, rows, failed, SIZES, pa.Table.from_pylist(samples), pa.Table.from_pylist(refused or [empty]).slice(not refused)
    )


@pytest.fixture
def written(tmp_path: Path, png: Any, tokenizer: Tokenizer) -> str:
    """The page of a run in which rows were refused; one task has more rows than are shown, one a name that is no word."""
    with ImageWriter(tmp_path / "s", shard_mib=1) as writer:
        red = writer.add(png("red"))
    samples = [sample("colour", row, red) for row in range(5)] + [sample(NASTY, 7), sample("text_only", 8, words=500)]
    refused = [
        {"source": "s", "row": row, "task": NASTY, "state": "uncertified", "reason": f"answer: said {NASTY}"}
        for row in range(9)
    ]
    refused.append({"source": "s", "row": 99, "task": "t", "state": "too_long", "reason": "max_tokens: 90 tokens of 60"})
    path = tmp_path / "certificate.html"
    proofs = [proof("connect", []), proof("train", samples, refused)]
    write_certificate(path, proofs, CHECKS, [tmp_path / "s"], tokenizer)
    return path.read_text(encoding="utf-8")


def test_the_learned_tokens_are_marked_and_the_prompt_is_not(written):
    card = written[written.index("<h3>Colour</h3>") :]
    card = card[: card.index("</article>")]
    assert re.findall(r'<mark class="token learned">(.*?)</mark>', card) == [" red"]
    assert "&lt;image&gt; ×40" in card
    assert re.search(r'<span class="token special learned">&lt;/s&gt;</span>', card)


def test_of_each_task_no_more_rows_are_shown_than_wanted_the_first_drawn_first(written):
    assert re.findall(r"short · s, row (\d+)<br>", written) == ["7", "0", "1", "8"]
    assert A_TASK == 2


def test_a_long_row_is_cut_and_says_so(written):
    assert "387 more tokens" in written


def test_rows_that_were_refused_are_counted_and_some_are_named(written):
    assert '<code>answer</code></th><td>train</td><td class="n">30</td>' in written
    assert written.count("said &lt;script&gt;") == REFUSED_SHOWN
    assert "s, row 99" in written
    assert "90 tokens of 60" in written


def test_every_check_says_what_it_proves(written):
    for name, meaning in CHECKS.items():
        assert f"<code>{name}</code></th><td>{meaning}</td>" in written


def test_what_comes_from_data_is_shown_and_not_obeyed_and_nothing_is_asked_of_a_network(written):
    assert "<script>alert" not in written
    assert "<b>bold" not in written
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', written)
    assert "default-src 'none'" in written


def test_a_run_without_rows_has_a_page_too(tmp_path, tokenizer):
    empty = Proof(
        "train", {}, {}, dict.fromkeys(SIZES, 0), pa.Table.from_pylist([sample("t", 1)]).slice(1), proof("t", []).refused
    )
    write_certificate(tmp_path / "page.html", [empty], CHECKS, [], tokenizer)
    assert "No row was proved." in (tmp_path / "page.html").read_text(encoding="utf-8")


def large(folder: Path, tokenizer: Tokenizer) -> Path:
    """The page of three stages of two hundred tasks, of photographs."""
    with ImageWriter(folder / "s", shard_mib=64) as writer:
        shown = []
        for number in range(200):
            picture = Image.effect_noise((400, 300), 90 + number % 50).convert("RGB")
            picture.save(folder / "one.jpg", quality=90)
            shown.append(writer.add((folder / "one.jpg").read_bytes()))
    samples = [sample(f"task_{number}_of_many", row, shown[number], 120) for number in range(200) for row in range(2)]
    path = folder / "certificate.html"
    write_certificate(
        path, [proof(stage, samples) for stage in ("connect", "train", "align")], CHECKS, [folder / "s"], tokenizer
    )
    return path


@pytest.mark.slow
def test_two_hundred_tasks_fit_into_five_megabytes(tmp_path, tokenizer):
    assert large(tmp_path, tokenizer).stat().st_size < 5_000_000


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_it_on_every_width_in_light_and_dark_and_filters_its_rows(written, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((360, "light"), (800, "dark"), (1600, "light")):
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto((tmp_path / "certificate.html").as_uri())
            assert said == [], "the page complains, or something in it was forbidden"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.select_option("select[data-filter=task]", label="Colour")
            assert page.locator("[data-card]:visible").count() == A_TASK
            assert page.locator("[data-shown]").inner_text() == "2 of 4 shown"
        browser.close()
