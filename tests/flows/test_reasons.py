"""Why a stage runs: what changed, with the values where there are any."""

import pytest

from flows.reasons import differences, last_params, reasons


def deps(**changes):
    return {"a": [{"changed deps": changes}, {"changed outs": {"data/y": "deleted"}}]}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, ""),
        (deps(**{"data/x": "modified"}), "data/x modified"),
        (deps(**{"params.yaml": {"a": "modified"}}), "params a.rate 3 → 4, params a.parts.tower full → None"),
        (deps(**{"params.yaml": {"b.c": "deleted"}}), "params b.c 1 → None"),
        (deps(**{"params.yaml": {"d": "modified"}}), "params d modified"),
        (deps(**{"a.py": "modified", "params.yaml": "new"}), "it has not run before"),
        ({"a": [{"changed outs": {"data/y": "modified"}}]}, "output data/y modified"),
        ({"a": ["changed command"]}, "changed command"),
        ({"a": ["always changed"]}, "always changed"),
    ],
)
def test_reasons_name_what_changed_and_outputs_only_when_nothing_else_did(status, words):
    before = {"a": {"rate": 3, "parts": {"tower": "full"}, "seed": 1}, "b.c": 1, "d": 5}
    now = {"a": {"rate": 4, "parts": {}, "seed": 1}, "b": {}, "d": 5}

    assert reasons(status, before, now) == words


def test_equal_values_do_not_differ():
    assert differences("a", {"b": [1, 2]}, {"b": [1, 2]}) == []


def test_the_params_of_the_last_run_come_from_the_lock(tmp_path):
    assert last_params(tmp_path, "a") == {}
    (tmp_path / "dvc.lock").write_text("stages: {a: {params: {params.yaml: {a.rate: 3}}}, b: {cmd: x}}")
    assert last_params(tmp_path, "a") == {"a.rate": 3}
    assert last_params(tmp_path, "b") == {}


def test_a_lock_that_another_stage_is_writing_leaves_only_the_words_without_values(tmp_path):
    whole = "schema: '2.0'\nstages:\n  größe:\n    cmd: x\n    params:\n      params.yaml:\n        a.rate: [3, 'é']\n".encode()
    for end in range(len(whole)):
        (tmp_path / "dvc.lock").write_bytes(whole[:end])
        assert last_params(tmp_path, "größe").keys() <= {"a.rate"}, whole[:end]
    (tmp_path / "dvc.lock").write_bytes(whole)
    assert last_params(tmp_path, "größe") == {"a.rate": [3, "é"]}


def test_a_lock_that_is_gone_or_no_file_is_read_as_none(tmp_path):
    (tmp_path / "dvc.lock").mkdir()
    assert last_params(tmp_path, "a") == {}
