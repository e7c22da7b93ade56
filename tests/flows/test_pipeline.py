"""What a task says of DVC's answer, without DVC and without Prefect's engine."""

import json

import pytest

from flows.pipeline import Answer, StageFailed, StageRefused, environment


def heard(*lines: str) -> Answer:
    answer = Answer("train", {}, {})
    for line in lines:
        answer.hear(line)
    return answer


CHANGED = json.dumps({"train": [{"changed deps": {"data/x": "modified"}}]})


def test_a_stage_that_dvc_skips_is_up_to_date():
    state = heard("{}", "Stage 'train' didn't change, skipping").state(0)

    assert (state.name, state.is_completed()) == ("Up to date", True)


def test_a_stage_that_ran_says_why():
    state = heard(CHANGED, "Running stage 'train':", "> python").state(0)

    assert (state.name, state.message) == ("Completed", "ran, because data/x modified")


def test_a_stage_that_dvc_had_in_its_cache_says_so():
    state = heard(CHANGED, "Stage 'train' is cached - skipping run, checking out outputs").state(0)

    assert state.name == "Restored"


def test_a_failure_carries_the_last_line_and_may_be_tried_again():
    with pytest.raises(StageFailed, match="exited with 1") as caught:
        heard(CHANGED, "ERROR: failed to run: python -m stages.train, exited with 1").state(255)

    assert not isinstance(caught.value, StageRefused)


def test_a_users_mistake_is_not_tried_again():
    with pytest.raises(StageRefused):
        heard(CHANGED, "ERROR: failed to run: python -m stages.train, exited with 2").state(255)


def test_what_dvc_advises_a_person_at_a_shell_stays_out_of_the_log():
    answer = heard(CHANGED)
    answer.hear("To track the changes with git, run:")

    assert answer.spoken == ""


def test_python_in_a_stage_is_the_python_of_the_flow(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))

    assert environment()["PATH"].startswith(str(tmp_path))
