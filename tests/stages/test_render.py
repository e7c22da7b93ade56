import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from stages import render as stage
from stages.corpus import example, ledger
from stages.corpus.example import KINDS, Example, Turn
from stages.corpus.images import ImageWriter
from stages.models import loading
from stages.models.loading import load_processor
from stages.render import Params, render
from stages.running.compute import Compute, use
from stages.trees import tree

PARAMS = Params(seed=1, suffixes={kind: [] for kind in KINDS}, max_tokens=60)
INSTRUCTIONS = {("s", "colour"): ["What colour is it?", "Name the colour.", "Which colour do you see?"]}


def row(number: int, *texts: str, images: tuple[str, ...] = (), task: str = "colour", templated: bool = False) -> Example:
    turns = tuple(Turn(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))
    return Example("s", number, str(number), task, "d", "short", "human", images, turns, templated)


@pytest.fixture
def rendered(tmp_path: Path, tiny_model: Path, png, monkeypatch):
    """A function that renders rows as `train`'s selection, and gives the folder it wrote."""
    monkeypatch.chdir(tmp_path)
    with ImageWriter(tmp_path / "ingest" / "s", 1) as writer:
        digests = [writer.add(png(colour)) for colour in ("red", "blue")]
        strange = io.BytesIO()
        Image.new("RGB", (4, 4)).save(strange, "PCX")
        digests.append(writer.add(strange.getvalue()))
    (tmp_path / "ingest" / "s" / "instructions.json").write_text(
        json.dumps({"colour": {"domain": "d", "kind": "short", "instructions": INSTRUCTIONS["s", "colour"]}})
    )

    def run(
        *rows: Example,
        held_out: tuple[Example, ...] = (),
        model: Path = tiny_model,
        processes: int = 1,
        shard_rows: int = 1000,
    ) -> Path:
        curated, out = tmp_path / "curate", tmp_path / "render"
        for folder in (curated, out):
            shutil.rmtree(folder, ignore_errors=True)
        for first in range(0, len(rows), shard_rows):
            name = f"s-{first // shard_rows:05d}.parquet"
            example.write(curated / "train" / name, rows[first : first + shard_rows])
        example.write(curated / "held_out" / "00000.parquet", held_out)
        use(Compute(engine="local", address=None, processes=processes))
        render(PARAMS, curated, tmp_path / "ingest", model, out)
        return out

    run.digests = digests  # type: ignore[attr-defined]
    return run


def states(folder: Path) -> dict[int, tuple[str, str]]:
    return {line.row: (line.state, line.reason) for line in ledger.read(folder / "ledger.parquet")}


def test_examples_behind_one_picture_become_one_tree(rendered):
    red, blue, _ = rendered.digests
    out = rendered(
        row(0, "<image>\nWhat colour is it?", "red", images=(red,)),
        row(1, "Is it round?\n<image>", "No", images=(red,)),
        row(2, "<image>\nWhat colour is it?", "blue", "And now?", "blue too", images=(blue,)),
        row(3, "Count.", "one two"),
        row(4, "Count.", "three"),
    )
    trees = {tuple(branch.row for branch in one.branches): one for one in tree.read_all(out / "train")}
    assert set(trees) == {(0, 1), (2,), (3,), (4,)}
    assert trees[0, 1].images == (red,)
    assert trees[3,].prefix == ()
    assert set(states(out).values()) == {("ready", "train")}


def test_a_row_that_cannot_be_proved_is_in_the_ledger_with_the_check_it_failed(rendered):
    red = rendered.digests[0]
    out = rendered(
        row(0, "<image>\nWhat colour is it?", "red", images=(red,)),
        row(1, "<image>\nWhat colour is it?", "red</s>blue", images=(red,)),
        row(2, "<image>\nWhat colour is it?", "red " * 60, images=(red,)),
    )
    ended = states(out)
    assert ended[0] == ("ready", "train")
    assert ended[1][0] == "uncertified"
    assert ended[1][1].startswith("answer:")
    assert ended[2][0] == "too_long"
    assert ended[2][1].startswith("max_tokens: ")
    assert ended[2][1].endswith(" of 60")
    certificate = json.loads((out / "certificate.json").read_text())["stages"]["train"]
    assert certificate["rows"] == {"ready": 1, "too_long": 1, "uncertified": 1}
    assert certificate["failed_checks"] == {"answer": 1}
    assert [branch.row for one in tree.read_all(out / "train") for branch in one.branches] == [0]


def with_ending(model: Path, folder: Path, ending: str) -> Path:
    """The model with a chat template that writes `ending` where it wrote the end of an answer."""
    shutil.copytree(model, folder)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert template.count("</s>") == 1
    (folder / "chat_template.jinja").write_text(template.replace("</s>", ending), encoding="utf-8")
    return folder


def test_a_base_model_whose_template_ends_no_answer_stops_the_run_before_any_row(rendered, tiny_model, tmp_path):
    endless = with_ending(tiny_model, tmp_path / "endless", " ")
    with pytest.raises(
        ValueError, match=r"no answer would end.*write \{\{ eos_token \}\} .*chat_template\.jinja.* as base\.model"
    ):
        rendered(row(0, "<image>\nWhat colour is it?", "red", images=rendered.digests[:1]), model=endless)
    assert not any((tmp_path / "render").iterdir())


def test_a_row_whose_answer_alone_does_not_end_is_in_the_ledger_with_that_check(rendered, tiny_model, tmp_path):
    ending = "{% if message['content'][0]['text'] != 'blue' %}</s>{% endif %}"
    out = rendered(
        row(0, "<image>\nWhat colour is it?", "red", images=rendered.digests[:1]),
        row(1, "<image>\nWhat colour is it?", "blue", images=rendered.digests[:1]),
        model=with_ending(tiny_model, tmp_path / "forgetful", ending),
    )
    ended = states(out)
    assert ended[0] == ("ready", "train")
    assert ended[1][0] == "uncertified"
    assert ended[1][1].startswith("end:")
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["stages"]["train"]["failed_checks"] == {"end": 1}
    assert "end" in certificate["checks"]


def many(rendered: Any, rows: int) -> list[Example]:
    """Rows about both pictures, one, and none, of which some cannot be proved and some are too long."""
    red, blue, _ = rendered.digests
    shown = [(red,), (blue,), (red, blue), ()]
    return [
        row(number, "<image>" * len(images) + f"What is {number}?", answer, images=images)
        for number in range(rows)
        for images in [shown[number % 4]]
        for answer in ["r</s>d" if number % 9 == 0 else "red " * 60 if number % 10 == 0 else f"red {number}"]
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_several_processes_write_the_bytes_of_one(rendered, tmp_path):
    rows = many(rendered, 99)
    written = []
    for processes in (1, 2):
        shutil.rmtree(tmp_path / ".work", ignore_errors=True)
        written.append(contents(rendered(*rows, processes=processes, shard_rows=20)))
    assert written[0] == written[1]
    assert len(written[0]) == 7


def test_however_the_rows_are_cut_into_shards_the_same_trees_grow(rendered):
    rows = many(rendered, 60)
    written = [contents(rendered(*rows, shard_rows=size)) for size in (60, 13, 1)]
    assert written[0] == written[1] == written[2]


def test_trees_stand_in_the_order_of_their_pictures_and_text_alone_comes_last_as_it_came(rendered):
    trees = tree.read_all(rendered(*many(rendered, 60), shard_rows=7) / "train")
    pictured = [one.images for one in trees if one.images]
    assert pictured == sorted(pictured)
    assert [one.images for one in trees][: len(pictured)] == pictured
    assert [len(one.branches) for one in trees[len(pictured) :]] == [1] * (len(trees) - len(pictured))
    text = [one.branches[0].row for one in trees[len(pictured) :]]
    assert text == sorted(text)


def test_more_rows_than_a_shard_of_trees_has_room_for_lie_in_several_in_the_same_order(rendered, monkeypatch):
    rows = many(rendered, 60)
    one = tree.read_all(rendered(*rows, shard_rows=7) / "train")
    monkeypatch.setattr(stage, "ROWS_A_SHARD", 4)
    folder = rendered(*rows, shard_rows=7) / "train"
    assert tree.read_all(folder) == one
    assert len(list(folder.iterdir())) > 3
    of_picture = [{images for images in (one.images for one in tree.read(path)) if images} for path in sorted(folder.iterdir())]
    assert sum(map(len, of_picture)) == len(set().union(*of_picture)), "a picture's trees lie in one shard"


def count_proved(monkeypatch: pytest.MonkeyPatch, into: list[int]) -> None:
    """Have `into` collect how many rows are proved of each shard."""
    prove = stage.Renderer.__call__

    def counting(self: stage.Renderer, piece: tuple[str, pa.Table]) -> tuple[pa.Table, bool]:
        into.append(len(piece[1]))
        return prove(self, piece)

    monkeypatch.setattr(stage.Renderer, "__call__", counting)


def test_a_later_run_proves_only_rows_that_changed(rendered, monkeypatch):
    rows = many(rendered, 40)
    times: list[int] = []
    count_proved(monkeypatch, times)
    first = contents(rendered(*rows, shard_rows=10))
    assert times == [10, 10, 10, 10]
    assert contents(rendered(*rows, shard_rows=10)) == first
    assert len(times) == 4, "nothing changed, so nothing is proved again"
    rendered(*rows[:39], replace(rows[39], turns=rows[38].turns, images=()), row(40, "New?", "red"), shard_rows=10)
    assert times[4:] == [4, 1], "the one that changed and three that the processor is asked about; a new one"


def test_other_instructions_are_proved_anew(rendered, tmp_path):
    one = row(0, "<image>", "red", images=rendered.digests[:1], templated=True)
    before = tree.read_all(rendered(one) / "train")
    path = tmp_path / "ingest" / "s" / "instructions.json"
    about = {"colour": {"domain": "d", "kind": "short", "instructions": ["Say its colour."]}}
    path.write_text(json.dumps(about), encoding="utf-8")
    assert tree.read_all(rendered(one) / "train") != before


def test_what_is_supervised_in_the_trees_is_the_answers(rendered, tiny_model):
    rows = many(rendered, 60)
    answers = {one.row: one.turns[1].text for one in rows}
    tokenizer = load_processor(tiny_model).tokenizer
    branches = [branch for one in tree.read_all(rendered(*rows) / "train") for branch in one.branches]
    assert len(branches) > 40
    for branch in branches:
        learned = [id for id, wanted in zip(branch.ids, branch.supervised, strict=True) if wanted]
        assert tokenizer.decode(learned) == answers[branch.row] + "</s>"


def test_the_page_shows_rows_of_each_task_and_names_those_that_were_left_out(rendered):
    page = (rendered(*many(rendered, 30)) / "certificate.html").read_text(encoding="utf-8")
    assert "<h3>Colour</h3>" in page
    assert re.search(r"<code>answer</code></th><td>train</td><td class=.n.>4</td>", page)
    assert re.search(r"<code>max_tokens</code></th><td>train</td><td class=.n.>2</td>", page)


def test_suffixes_name_every_kind_and_are_lines_of_words():
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    with pytest.raises(ValueError, match="name every kind once"):
        Params(seed=1, suffixes={"short": []}, max_tokens=9)
    for wrong in ("", " Be brief.", "<image>Be brief."):
        with pytest.raises(ValueError, match=r"short: .* is no line of words"):
            Params(seed=1, suffixes={**kinds, "short": [wrong]}, max_tokens=9)


def test_a_held_out_row_is_asked_with_the_suffix_that_its_kind_has(rendered, monkeypatch):
    told = Params(seed=1, suffixes={**PARAMS.suffixes, "short": ["Be brief."]}, max_tokens=60)
    monkeypatch.setattr(sys.modules[__name__], "PARAMS", told)
    out = rendered(held_out=(row(7, "<image>\nWhat is it?", "red", images=rendered.digests[:1]),))
    (asked,) = example.read(out / "held_out.parquet")
    assert asked.turns[0].text == "<image>What is it?\nBe brief."


def test_a_picture_that_nobody_measured_is_an_error_that_names_it(rendered):
    unknown = rendered.digests[2]
    with pytest.raises(ValueError, match=f"picture {unknown} of the curated rows was not measured"):
        rendered(row(0, "<image>\nWhat colour is it?", "red", images=(unknown,)))


def test_a_tree_that_would_grow_too_large_is_followed_by_another_of_the_same_picture(rendered):
    red = rendered.digests[0]
    out = rendered(*(row(number, "<image>\nWhat colour is it?", f"red {number}", images=(red,)) for number in range(12)))
    trees = tree.read_all(out / "train")
    assert len(trees) > 1
    assert all(one.tokens <= PARAMS.max_tokens for one in trees)
    assert sorted(branch.row for one in trees for branch in one.branches) == list(range(12))


def test_a_templated_row_is_asked_with_one_of_its_tasks_instructions_and_its_own_input(rendered):
    red = rendered.digests[0]
    out = rendered(held_out=(row(7, "<image>\nLook well.", "red", images=(red,), templated=True),))
    (asked,) = example.read(out / "held_out.parquet")
    first, given = asked.turns[0].text.removeprefix("<image>").split("\n\n")
    assert first in INSTRUCTIONS["s", "colour"]
    assert given == "Look well."
    assert not asked.templated


def test_of_a_shard_that_lost_and_won_rows_only_the_new_ones_are_proved_and_all_is_as_if_none_was_known(rendered, monkeypatch):
    red, blue, _ = rendered.digests
    rows = [row(number, f"<image>\nWhat is {number}?", "red", images=(red, blue)[number % 2 :][:1]) for number in range(9)]
    asked: list[int] = []
    count_proved(monkeypatch, asked)

    rendered(*rows[:4], *rows[5:8])
    changed = [rows[0], *rows[2:5], replace(rows[5], turns=(rows[5].turns[0], Turn("assistant", "blue"))), *rows[6:]]
    out = rendered(*changed)
    known = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {line.row for line in ledger.read(rendered(*rows[2:4]) / "ledger.parquet")} == {2, 3}
    shutil.rmtree(Path(".work"))
    out = rendered(*changed)

    assert asked == [7, 4, 1, 8], "beside what is new one is asked about; without what is kept all are proved"
    assert known == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_of_a_shard_whose_processor_is_doubted_known_rows_are_proved_anew_too(rendered, monkeypatch):
    """Asked itself, this processor shouts of blue, which no row that it was asked about has, and cuts long prompts."""
    load, asked = loading.load_processor, []

    def shouting(model: Path) -> Any:
        processor: Any = load(model)
        before = processor.apply_chat_template

        def write(rows: Any, **given: Any) -> Any:
            if not given.get("tokenize"):
                return before(rows, **given)
            for part in (part for row in rows for turn in row for part in turn["content"] if "text" in part):
                part["text"] = part["text"].replace("blue", "BLUE")[:99]
            return before(rows, **given)

        processor.apply_chat_template = write
        return processor

    monkeypatch.setattr(loading, "load_processor", shouting)
    count_proved(monkeypatch, asked)
    red = rendered.digests[:1]
    rows = [row(number, f"<image>\nIs it {word}?", "No", images=red) for number, word in enumerate(["green", "blue", "grey"])]
    long = row(3, "<image>\nIs it green? " + "Is it? " * 20, "No", images=red)

    assert set(states(rendered(*rows)).values()) == {("ready", "train")}, "nobody asked it about the blue one"
    out = rendered(*rows, long)
    known = contents(out)
    assert {number: state for number, (state, _) in states(out).items()} == {
        0: "ready", 1: "uncertified", 2: "ready", 3: "uncertified"
    }  # fmt: skip
    shutil.rmtree(Path(".work"))
    assert contents(rendered(*rows, long)) == known
    assert asked == [3, 3, 4, 4], "the new one, the first of its structure and the longest; then all"


@pytest.mark.parametrize("before", [["green", "blue"], ["blue"]])
@pytest.mark.parametrize("after", [["green", "blue"], ["blue"]])
def test_what_becomes_of_rows_hangs_on_no_rows_that_stood_beside_them_once(rendered, monkeypatch, before, after):
    """Asked itself, this processor shouts of blue; it is asked about the first row of its structure, and the longest."""
    load = loading.load_processor

    def shouting(model: Path) -> Any:
        processor: Any = load(model)
        write = processor.apply_chat_template

        def shout(rows: Any, **given: Any) -> Any:
            for part in (part for row in rows for turn in row for part in turn["content"] if "text" in part):
                part["text"] = part["text"].replace("blue", "BLUE") if given.get("tokenize") else part["text"]
            return write(rows, **given)

        processor.apply_chat_template = shout
        return processor

    monkeypatch.setattr(loading, "load_processor", shouting)
    said = {
        "green": row(0, "<image>\nIs it a green one, or is it not?", "No", images=rendered.digests[:1]),
        "blue": row(1, "<image>\nIs it blue?", "No", images=rendered.digests[:1]),
    }

    rendered(*(said[word] for word in before))
    out = rendered(*(said[word] for word in after))
    known = contents(out)
    shutil.rmtree(Path(".work"))

    assert contents(rendered(*(said[word] for word in after))) == known
    assert states(out)[1][0] == ("uncertified" if after == ["blue"] else "ready")
