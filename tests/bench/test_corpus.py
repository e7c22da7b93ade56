"""The bench of the data half draws rows that its formats read, and times what it says it times."""

import json
from itertools import islice

import pytest

from bench import corpus
from bench.corpus import Run, Shape, block, flan_rows, measured, pictures_of, raw_objects, together, words_of
from stages.formats import FORMATS


def test_rows_of_either_shape_are_read_by_their_format_and_no_two_say_the_same():
    rows = [json.loads(row) for row in flan_rows(400, 50, 1)]
    drafts = [FORMATS["vision_flan"].read_row(row, {}, "big") for row in rows]
    objects = [json.loads(one) for kind in ("conversation", "referring_qa") for one in raw_objects(kind, 3)]
    blocks = [row for one in objects for row in FORMATS["svit"].rows(one, "referring_qa.json")]

    assert len({(draft.images, draft.turns) for draft in drafts}) == 400
    assert len({draft.task for draft in drafts}) == corpus.TASKS
    assert len(blocks) == 3 * (4 + 13)
    assert len({json.dumps(row) for row in blocks}) == len(blocks)


def test_the_shapes_have_the_rows_they_are_named_after():
    of_each = {"conversation": 4, "complex_reasoning": 20, "referring_qa": 13, "detail_description": 1}
    rows = sum(len(json.loads(next(raw_objects(kind, 1)))["conversations"]) for kind in of_each)
    assert rows == sum(of_each.values())
    for name, shape in corpus.SHAPES.items():
        told = int(name.rpartition("_")[2].removesuffix("k")) * 1000
        assert shape.rows == told
        if shape.raw:
            assert rows * shape.pictures == pytest.approx(told, rel=0.01)


def test_more_rows_begin_otherwise_than_those_before():
    assert not set(islice(flan_rows(20, 5, corpus.SEED), 20)) & set(flan_rows(20, 5, corpus.SEED + 1))
    assert block(1, "more 1", 1) != block(1, "more 2", 1)


def test_pictures_differ_and_are_small():
    drawn = pictures_of(range(30))
    assert len(set(drawn)) == 30
    assert max(map(len, drawn)) < 8000


def test_several_runs_one_after_the_other_add_up_but_for_their_memory():
    assert together([Run(1.0, 10, 0.5), Run(2.5, 7, 2.0)]) == Run(3.5, 10, 2.5)


def test_a_stages_words_are_those_of_the_graph_with_its_params(tmp_path):
    (tmp_path / "params.yaml").write_text("align: {dose: 7}\ncurate: {contamination: {folder: benchmarks}}\n")
    words = words_of("curate", tmp_path)
    assert words[0] == "curate"
    assert "7" in words
    assert not [word for word in words if "$" in word]


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True])
def test_a_small_shape_is_measured_from_end_to_end(tmp_path, monkeypatch, raw):
    monkeypatch.setattr(corpus, "SMALL", 200)
    found = measured(Shape(400, 10, raw), tmp_path / "shape")

    assert set(found.stages) == set(found.one_percent_more) == set(corpus.STAGES)
    assert all(run.seconds > 0 and run.peak_mib > 50 for run in found.stages.values())
    assert found.states["render: ready"] > 300
