import pytest

from stages.running.section import section_of
from stages.tuning.params import Tuning


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"processes": 3},
            r"train: step_size 4 must be a multiple of processes 3; change one of them$",
        ),
        (
            {"parts": dict.fromkeys(("vision_tower", "connector", "language_model"), "frozen")},
            r"train: every part is frozen: nothing would be tuned; set one of parts\.\* to full or lora$",
        ),
    ],
)
def test_params_that_cannot_work_together_are_refused_as_a_fault_of_their_section(tuning, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        section_of(Tuning, "train", {"train": {**tuning, **change}}, tmp_path / "params.yaml")


def test_a_section_that_is_no_mapping_is_refused_with_what_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"train: .*got 5"):
        section_of(Tuning, "train", {"train": 5}, tmp_path / "params.yaml")
