"""The graph comes from DVC, in DVC's order."""

from pathlib import Path

import pytest

from flows.graph import Stage, awaited, read_stages, upto

# DVC's own use of pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")

PROJECT = Path(__file__).parents[2]


def stage(name: str, *needs: str) -> Stage:
    return Stage(name, needs, gpu=False, retries=0)


CHAIN = [stage("draw"), stage("read@a", "draw"), stage("read@b", "draw"), stage("learn", "read@a"), stage("else")]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (None, ["draw", "read@a", "read@b", "learn", "else"]),
        (["learn"], ["draw", "read@a", "learn"]),
        (["read"], ["draw", "read@a", "read@b"]),
        (["read@b", "else"], ["draw", "read@b", "else"]),
    ],
)
def test_targets_bring_what_they_need(targets, names):
    assert [stage.name for stage in upto(CHAIN, targets)] == names


def test_a_target_that_is_no_stage_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"no stage 'lern'; it has draw, read@a"):
        upto(CHAIN, ["lern"])


def test_only_what_nothing_else_has_waited_for_is_awaited():
    chain = [stage("draw"), stage("read", "draw"), stage("learn", "draw", "read"), stage("score", "draw", "learn", "read")]

    assert [awaited(found, chain) for found in chain] == [[], ["draw"], ["read"], ["learn"]]


def test_every_stage_of_the_project_comes_after_what_it_needs():
    seen: set[str] = set()
    for found in read_stages(PROJECT):
        assert set(found.needs) <= seen
        seen.add(found.name)
    assert {"sample", "ingest@tasks", "train", "answer@base", "register"} <= seen


def test_meta_says_who_wants_the_gpu_and_how_often_to_try():
    stages = {stage.name: stage for stage in read_stages(PROJECT)}

    assert (stages["train"].gpu, stages["train"].retries) == (True, 2)
    assert (stages["curate"].gpu, stages["curate"].retries) == (False, 0)


@pytest.mark.parametrize("meta", ["{gpus: true}", "{gpu: 1}", "{retries: yes}", "{retries: -1}", "fast"])
def test_a_meta_that_no_scheduler_understands_is_refused(toy, meta):
    toy.edit("meta: {gpu: true, retries: 1}", f"meta: {meta}", "dvc.yaml")

    with pytest.raises(ValueError, match="meta of stage 'train'"):
        read_stages(toy.root)
