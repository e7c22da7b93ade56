import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from stages.corpus import example, ledger
from stages.corpus.example import KINDS, Example, Turn
from stages.corpus.images import ImageWriter
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

    def run(*rows: Example, held_out: tuple[Example, ...] = (), model: Path = tiny_model, processes: int = 1) -> Path:
        curated, out = tmp_path / "curate", tmp_path / "render"
        out.mkdir()
        example.write(curated / "train" / "00000.parquet", rows)
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


@pytest.mark.slow
def test_several_processes_write_the_bytes_of_one(rendered, tmp_path):
    rows = [row(number, f"<image>\nWhat is {number}?", "red", images=rendered.digests[number % 2 :][:1]) for number in range(4)]
    rows += [row(number, f"What is {number}?", "red" if number % 9 else "r</s>d") for number in range(4, 99)]
    written = []
    for processes in (1, 2):
        out = rendered(*rows, processes=processes)
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
        shutil.rmtree(out)
        shutil.rmtree(tmp_path / "curate")
    assert written[0] == written[1]
    assert len(written[0]) == 6


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
