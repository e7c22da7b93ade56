"""Sections of params.yaml, as a person or DVC writes them."""

import pytest

from stages.running.section import Section, read_params, section_of


class Rates(Section):
    rate: float
    """A number."""
    name: str
    """A text."""


@pytest.mark.parametrize(
    ("written", "meant"), [("2e-5", 2e-5), ("5e-05", 5e-5), ("1.5E3", 1500.0), ("-.5e+2", -50.0), ("0.1", 0.1)]
)
def test_a_number_is_written_as_dvc_and_every_paper_write_it(tmp_path, written, meant):
    path = tmp_path / "params.yaml"
    path.write_text(f"train: {{rate: {written}, name: run}}\n")

    assert section_of(Rates, "train", read_params(path), path).rate == meant


@pytest.mark.parametrize("written", ["e5", "1e", "a1e5", "'2e-5'"])
def test_a_text_stays_a_text(tmp_path, written):
    path = tmp_path / "params.yaml"
    path.write_text(f"train: {{rate: 1.0, name: {written}}}\n")

    assert section_of(Rates, "train", read_params(path), path).name == written.strip("'")
