"""The report: one file, complete, true to what the stages wrote."""

import base64
import hashlib
import html
import re
from collections import Counter

import pytest

from stages.corpus import ledger
from stages.pages.standing import TaskRow, task_tables


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return run.write(tmp_path_factory.mktemp("page") / "report.html")


def first(pattern, text):
    found = re.search(pattern, text, re.DOTALL)
    assert found, f"nothing like {pattern}"
    return found[found.re.groups]


def part(page, name):
    return first(rf'<section id="{name}".*?</section>', page)


def words(markup):
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", markup).split()))


def test_the_page_asks_nothing_of_any_machine(page):
    assert not re.search(r"https?://|//cdn|@import|url\(|<iframe|<object|<base\b", page)
    links = re.findall(r'(?:src|href|action|data|poster|srcset)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "default-src 'none'" in page


def test_every_link_of_the_page_leads_somewhere(page):
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert {link[1:] for link in re.findall(r'href="(#[^"]+)"', page)} <= set(names)


def test_the_only_script_is_the_one_the_page_allows(page):
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_text_from_data_is_shown_and_never_obeyed(run, page):
    assert run.nasty not in page
    assert "<b>bold</b>" not in page
    for name in ("gallery", "rows", "examples"):
        assert run.nasty in html.unescape(re.sub(r"<[^>]*>", "", part(page, name)))


def test_same_run_and_seed_give_the_same_bytes_and_another_seed_other_examples(run, page, tmp_path):
    assert run.write(tmp_path / "again.html") == page
    assert run.write(tmp_path / "other.html", seed=18) != page


def test_the_funnel_counts_what_the_ledgers_say(run, page):
    parts = run.parts()
    final = Counter(line.state for line in ledger.lines_of(ledger.join(parts)))
    whole = first(r'<article class="card funnel" style.*?</article>', page)
    said = {
        state: int(rows.replace(",", ""))
        for rows, state in re.findall(r"<summary>.*?<b>([\d,]+)</b>.*?<code>(\w+)</code>", whole)
    }
    assert said == {state: rows for state, rows in final.items() if state != "ready"}
    ready = Counter(line.reason for line in ledger.lines_of(ledger.join(parts)) if line.state == "ready")
    assert all(f"{rows} for {stage}" in words(whole) for stage, rows in ready.items())
    received = re.findall(r'<div class="step-number"><b>(\d+)</b>', whole)
    assert received == [str(len(part)) for part in parts]


def test_the_funnel_gives_the_reasons(page):
    assert "expect_answer_to_be_text" in words(part(page, "rows"))
    assert "4 same_answer such as tasks/3" in words(part(page, "rows"))


def test_every_task_has_an_example_with_its_answer_marked(run, page):
    shown = re.findall(r'<article class="card example">.*?</article>', part(page, "examples"), re.DOTALL)
    assert len(shown) == 1 + 2 * len(run.tasks)
    answers = {answer for _, _, answers in run.tasks.values() for answer in answers} | {run.nasty}
    for example in shown:
        marked = re.findall(r'<mark class="token learned">(.*?)</mark>', example, re.DOTALL)
        assert html.unescape("".join(marked)) in answers
        assert '<span class="token special learned">&lt;/s&gt;</span>' in example
        assert "&lt;image&gt; ×36" in example


def test_a_score_with_an_interval_has_a_whisker_and_one_without_has_none(run, page):
    cards = re.findall(r'<article class="card measure">.*?</article>', page, re.DOTALL)
    drawn = {name: card for card in cards for name in ("MME", "LLaVA-Bench") if f"<h3>{name}</h3>" in card}
    assert drawn["MME"].count('class="mark"') == drawn["LLaVA-Bench"].count('class="mark"') == len(run.models)
    assert drawn["MME"].count('class="whisker"') == 3 * len(run.models)
    assert drawn["LLaVA-Bench"].count('class="whisker"') == 0
    macro = run.scores["train"]["held_out"]
    assert f"{100 * macro['macro_low']:.1f} to {100 * macro['macro_high']:.1f}" in page


def test_a_gain_that_is_no_chance_is_coloured_and_each_says_what_would_have_been_found(run, page):
    gain = 100 * run.scores["train"]["held_out"]["macro_gain"]
    told = re.findall(r'<small class="(gain[ \w]*)" title="a change of ([\d.]+) points [^"]*">([^<]*)</small>', page)
    assert told == [("gain up", "3.1", f"+{gain:.1f}"), ("gain", "3.1", "+1.0")]


def test_a_task_is_told_by_the_mean_of_its_answers(run, page):
    of_task = [item["score"] for item in run.items if item["task"] == "digit_name" and item["model"] == "train"]
    row = first(r'<tr><th scope="row">Digit name</th>.*?</tr>', page)
    told = re.findall(r'data-value="([\d.]+)"', row)
    assert float(told[run.models.index("train")]) == pytest.approx(sum(of_task) / len(of_task), abs=1e-6)


def test_a_task_of_several_kinds_stands_once_in_each_table_so_that_the_mean_is_the_macro():
    marks = [("mixed", "short", 1.0), ("mixed", "judgement", 0.0), ("mixed", "long", 0.5), ("plain", "short", 1.0)]
    items = [
        {"benchmark": "held_out", "model": "train", "task": task, "kind": kind, "score": score} for task, kind, score in marks
    ]

    right_or_wrong, alike = task_tables(items, ["train"])

    assert right_or_wrong.rows == (TaskRow("mixed", "judgement, short", 2, (0.5,)), TaskRow("plain", "short", 1, (1.0,)))
    assert right_or_wrong.means == [0.75]
    assert alike.rows == (TaskRow("mixed", "long", 1, (0.5,)),)


def test_the_opening_counts_a_task_of_several_kinds_once(run, page):
    tested = {item["task"] for item in run.items if item["benchmark"] == "held_out"}
    assert f"{len(tested)} tasks were tested" in words(page)


def test_the_gallery_shows_each_models_answer_beside_the_truth(run, page):
    asked = re.findall(r'<article class="asked.*?</article>', part(page, "gallery"), re.DOTALL)
    assert asked
    for one in asked:
        assert one.count("<dt>") == 1 + len(run.models)
        assert all(model in words(one) for model in run.models)
    held_out = [one for one in asked if 'data-benchmark="held_out"' in one]
    assert {first(r'data-task="(\w+)"', one) for one in held_out} == set(run.tasks)


def test_pictures_of_benchmarks_are_found_by_their_path(run, page):
    pope = first(r'<article class="asked" [^>]*data-benchmark="pope".*?</article>', page)
    assert f"data:image/png;base64,{base64.b64encode(run.picture).decode()}" in pope


def test_every_picture_says_what_it_is(page):
    pictures = re.findall(r"<img [^>]*>", page)
    assert pictures
    assert all(re.search(r'alt="[^"]+"', picture) for picture in pictures)
