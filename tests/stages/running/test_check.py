"""Faults of params.yaml are found before anything runs, all of them, in words."""

import sys

import pytest

from stages.running.check import faults

STAGE = """
from pathlib import Path
from stages.running.command import Out
from stages.running.section import Section

class Params(Section):
    seed: int

def {name}(params: Params, made: Out) -> None: ...
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of two stages; modules of its own names, so that none of ours is in the way."""
    import stages

    (tmp_path / "toy").mkdir()
    for name in ("toydraw", "toylearn"):
        (tmp_path / "toy" / f"{name}.py").write_text(STAGE.format(name=name))
        monkeypatch.delitem(sys.modules, f"stages.{name}", raising=False)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path / "toy")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {toydraw: {cmd: a}, toylearn: {foreach: [1], do: {cmd: b}}}")
    return tmp_path


def check(place, params):
    (place / "params.yaml").write_text(params)
    return faults(place / "params.yaml", place / "dvc.yaml")


def test_a_sound_file_has_no_faults(place):
    assert check(place, "toydraw: {seed: 1}\ntoylearn: {seed: 2}") == []


def test_every_fault_is_told_at_once(place):
    found = check(place, "toydraw: {sed: 1}\ntoylearn: {seed: one}\ntoylern: {seed: 2}")

    assert [fault for fault in found if "toydraw.sed is no known key" in fault]
    assert [fault for fault in found if "toydraw.seed is missing" in fault]
    assert [fault for fault in found if "toylearn.seed" in fault and "'one'" in fault]
    assert [fault for fault in found if "section 'toylern:'" in fault and "toylearn" in fault]


def test_a_missing_section_is_a_fault(place):
    assert "no section 'toylearn:'" in check(place, "toydraw: {seed: 1}")[0]


def test_yaml_that_cannot_be_read_is_a_fault(place):
    assert "not valid YAML" in check(place, "toydraw: {seed: [}")[0]


def test_a_source_folder_that_nobody_makes_is_a_fault(place):
    found = check(
        place,
        "toydraw: {seed: 1}\ntoylearn: {seed: 2}\n"
        "ingest: {sources: {a: {folder: data/sample/tasks}, b: {folder: /nowhere/at all}, c: {folder: .}}}",
    )

    missing = [fault for fault in found if "there is no folder" in fault]
    assert len(missing) == 1
    assert "ingest.sources.b.folder: there is no folder /nowhere/at all" in missing[0]


def test_outside_a_project_it_says_where_to_run(tmp_path):
    (tmp_path / "params.yaml").write_text("{}")

    assert "run from the project's folder" in faults(tmp_path / "params.yaml", tmp_path / "dvc.yaml")[0]
