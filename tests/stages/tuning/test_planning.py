import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
import yaml

from stages.trees.tree import Branch, Tree
from stages.tuning import planning, rehearsal
from stages.tuning.loop import tune
from stages.tuning.params import Tuning
from stages.tuning.planning import GIB, TUNING, Job, Laid, choose, jobs, lay, plan, skeleton
from stages.tuning.rehearsal import Rehearsed

PROJECT = Path(__file__).parents[3]
TOOK = Rehearsed([2.0, 4.0], 5.0, 100, 10, 10, 20, 300, 10)
PARAMS = yaml.safe_load((PROJECT / "params.yaml").read_text())


def job(place: Path, base: Path, tuning: dict, **changes) -> Job:
    params = Tuning.model_validate({**tuning, **changes})
    return Job("train", params, place / "rendered", place / "rendered", place / "ingested", base, base)


@pytest.fixture
def rehearsed(monkeypatch):
    """What `rehearse` was called with; it takes no step."""
    calls = []
    monkeypatch.setattr(planning, "rehearse", lambda *given: (calls.append(given), TOOK)[1])
    return calls


def sized(place, base, tuning, **changes):
    """A chain's folder: trees, pictures and base model of all stages, a graph and params that name them."""
    values = {stage: {**PARAMS[stage], **tuning, **changes} for stage in TUNING}
    (place / "params.yaml").write_text(yaml.safe_dump(PARAMS | values))
    graph = {}
    for stage, before, former in zip(TUNING, ("base", *TUNING), ("", "rendered ", "rendered "), strict=False):
        read = f"rendered {former}ingested {base if before == 'base' else before}{' connect' if stage == 'align' else ''}"
        graph[stage] = {"cmd": f"python -m stages.{stage} {read} {stage} metrics curve ledger"}
    (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    return place / "params.yaml", place / "dvc.yaml"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"share_prefix": "never", "epochs": 2.5}, marks=pytest.mark.slow),
        pytest.param({"step_unit": "examples", "optimizer": "muon"}, marks=pytest.mark.slow),
        pytest.param(
            {"parts": {"vision_tower": "frozen", "connector": "full", "language_model": "lora"}}, marks=pytest.mark.slow
        ),
    ],
    ids=["trees", "rows", "examples", "lora"],
)
def test_what_is_planned_is_what_is_done(place, tiny_model, tuning, rehearsed, changes):
    made = plan(job(place, tiny_model, tuning, **changes), steps=2)
    out = [place / name for name in ("model", "metrics.json", "curve.csv", "ledger.parquet")]
    tune("train", made.job.params, place / "rendered", place / "rendered", place / "ingested", tiny_model, *out)
    done = json.loads((place / "metrics.json").read_text())

    assert len(made.laid.batches) == done["steps"]
    assert len(made.laid.trees) == done["trees"]
    assert made.laid.supervised == done["supervised_tokens_an_epoch"]
    assert sum(part.tuned for part in made.parts.values()) == done["parameters_tuned"]
    if not changes.get("share_prefix"):
        assert made.laid.an_epoch == done["tokens_an_epoch"]
    lora = made.parts["language_model"].tuned if made.parts["language_model"].how == "lora" else 0
    assert sum(part.parameters for part in made.parts.values()) + lora >= done["parameters"]


def test_a_skeleton_has_the_models_parameters_and_none_of_its_weights(tiny_model):
    model = skeleton(tiny_model)
    assert {one.device.type for one in model.parameters()} == {"meta"}


def test_the_largest_batches_of_the_run_are_among_those_measured_and_the_first_step_is_not_counted(
    place, tiny_model, tuning, rehearsed
):
    made = plan(job(place, tiny_model, tuning, epochs=20.0), steps=3)
    ((_, _, steps, _, _, _),) = rehearsed

    assert len(steps) == 4
    most = max(sum(one.tokens for one in batch) for step in made.laid.batches for batch in step)
    assert most in {sum(one.tokens for one in batch) for step in steps[1:] for batch in step}
    assert made.measured == sum(one.tokens for step in steps[1:] for batch in step for one in batch) / 3
    assert made.expected == pytest.approx(sum(made.laid.tokens) * 3.0 / made.measured)


def test_steps_are_measured_that_are_spread_over_the_run_and_those_with_most_tokens_pictures_and_longest_trees():
    def tree(tokens: int, pictures: int = 0) -> Tree:
        return Tree(("a",) * pictures, (), (Branch("s", 0, "t", "short", (1,) * tokens, (False,) * tokens),))

    plain = [[tree(10), tree(10)], [tree(10), tree(10)]]
    steps = (
        [plain] * 7 + [[[tree(31)] * 2, [tree(10)]], [[tree(10, 5)] * 2, [tree(10)]], [[tree(60)], [tree(10)]]] + [plain] * 20
    )

    laid = Laid([], 0, [], steps, None, flat=True)

    assert set(choose(laid, 4)) > {7, 8, 9}
    assert choose(laid, 5)[0] == 0, "the first, which warms up, is not counted"
    assert len(choose(laid, 5)) == 6


def test_a_run_of_one_step_is_measured_on_it(place, tiny_model, tuning):
    one = job(place, tiny_model, tuning, epochs=0.1)
    assert choose(lay(one, None), 2) == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ({}, r"tune parts of train\.parts through LoRA.*set train\.precision to pure_bf16, in params\.yaml$"),
        ({"processes": 2}, r"state alone are .* in all processes.*lower train\.processes \(now 2\)"),
    ],
)
def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    place, tiny_model, tuning, rehearsed, monkeypatch, changes, ways
):
    monkeypatch.setattr(planning, "memory_of", lambda _: 100_000)
    with pytest.raises(ValueError, match=f"train cannot fit: weights, gradients and the optimizer's .*{ways}"):
        plan(job(place, tiny_model, tuning, **changes), steps=1)
    assert not rehearsed


def test_what_need_not_be_tuned_makes_room(place, tiny_model, tuning, rehearsed, monkeypatch):
    weights = sum(one.numel() for one in skeleton(tiny_model).parameters()) * 4
    monkeypatch.setattr(planning, "memory_of", lambda _: 2 * weights)
    parts = {"vision_tower": "frozen", "connector": "full", "language_model": "frozen"}
    plan(job(place, tiny_model, tuning, parts=parts), steps=1)
    plan(job(place, tiny_model, tuning, precision="pure_bf16"), steps=1)
    with pytest.raises(ValueError, match="cannot fit"):
        plan(job(place, tiny_model, tuning), steps=1)


def test_what_was_measured_and_does_not_fit_is_refused_with_the_key_to_change(place, tiny_model, tuning, rehearsed):
    made = plan(job(place, tiny_model, tuning), steps=1)

    made.refuse()
    with pytest.raises(ValueError, match=r"lower train\.tokens_per_batch \(now 36\), or set train\.checkpoint_activations"):
        replace(made, memory=made.needs - 1).refuse()
    with pytest.raises(ValueError, match=r"train writes .* of checkpoints and model to .*make room, or tune less"):
        replace(made, disk=made.writes - 1).refuse()


def test_memory_is_what_a_container_may_have_of_it(tuning, tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{GIB}\n")
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: namedtuple("Memory", "total")(2 * GIB))
    monkeypatch.setattr(planning, "CGROUPS", [str(tmp_path / "max"), str(tmp_path / "gone")])
    assert planning.memory_of(Tuning.model_validate(tuning)) == 2 * GIB
    monkeypatch.setattr(planning, "CGROUPS", [str(tmp_path / "limit")])
    assert planning.memory_of(Tuning.model_validate(tuning)) == GIB


def test_the_plan_is_told_in_lines_with_units(place, tiny_model, tuning, rehearsed):
    text = "\n".join(planning.told(plan(job(place, tiny_model, tuning, epochs=20.0), steps=2)))

    for said in (
        "8 trees, 15 examples",
        "learning rate",
        "40 of 4 trees, in 20 epochs",
        " tokens an epoch",
        "memory          300 B of ",
    ):
        assert said in text, text
    assert "about 2 min on this machine, and 5 s until the first step: 2 to 4 s a step in 2 measured" in text


def test_padding_is_told_of_batches_and_of_what_attention_looks_at(place, tiny_model, tuning):
    one = job(place, tiny_model, tuning, share_prefix="never", tokens_per_batch=1000)
    flat, rows = lay(one, None), lay(one, "it cannot")

    assert flat.padding()[0] == 0.0
    assert rows.padding() == (0.0, 0.0), "all rows are of one length"
    trees = lay(job(place, tiny_model, tuning, tokens_per_batch=1000), None)
    assert 0.0 < trees.padding()[1] < 0.5, "trees of one to three branches lie beside each other"


def test_a_stage_whose_model_is_not_there_yet_is_measured_on_the_one_before(place, tiny_model, tuning, monkeypatch):
    monkeypatch.setattr(planning, "STAGES", PROJECT / "stages")
    params, graph = sized(place, tiny_model, tuning)

    found = jobs(TUNING, params, graph)

    assert [one.base for one in found] == [tiny_model, Path("connect"), Path("train")]
    assert {one.there for one in found} == {tiny_model}
    shutil.copytree(tiny_model, place / "connect")
    assert jobs(["align"], params, graph)[0].there == Path("connect")
    shutil.rmtree(place / "rendered")
    with pytest.raises(
        ValueError, match=r"a plan of train reads rendered, which is not there yet; first run `dvc repro render`"
    ):
        jobs(["train"], params, graph)


def test_a_refused_plan_ends_with_2_and_what_to_change(place, tiny_model, tuning, rehearsed, monkeypatch, capsys):
    monkeypatch.setattr(planning, "STAGES", PROJECT / "stages")
    params, graph = sized(place, tiny_model, tuning)
    parser = planning.argparse.ArgumentParser()
    planning.add_arguments(parser)
    words = ["--params", str(params), "--graph", str(graph)]

    assert planning.run(parser.parse_args(words)) == 0
    assert "all of them: about" in capsys.readouterr().out
    monkeypatch.setattr(planning, "memory_of", lambda _: 100_000)
    assert planning.run(parser.parse_args(["align", *words])) == 2
    assert "plan: align cannot fit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_few_real_steps_are_measured_and_nothing_is_left_of_them(place, tiny_model, tuning, processes):
    before = sorted(path for path in place.rglob("*"))
    runs = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))

    made = plan(job(place, tiny_model, tuning, processes=processes, epochs=20.0), steps=3)
    made.refuse()

    took = made.rehearsed
    assert len(took.seconds) == 3
    assert min(took.seconds) > 0
    count = sum(part.parameters for part in made.parts.values())
    assert 4 * count <= took.weights < 4.5 * count
    assert took.gradients == 4 * sum(part.tuned for part in made.parts.values())
    assert 2 * took.gradients <= took.optimizer < 2.1 * took.gradients
    assert took.itself < took.peak < 4 * GIB
    assert sorted(path for path in place.rglob("*")) == before
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == runs


@pytest.mark.slow
def test_processes_that_take_too_much_are_ended_before_the_machine_is(place, tiny_model, tuning):
    one = job(place, tiny_model, tuning)
    batches = lay(one, None).batches[:1]
    with pytest.raises(ValueError, match=r"train does not fit the 0\.1 GiB of memory here: lower train\.tokens_per_batch"):
        rehearsal.rehearse("train", one.params, batches, one.ingested, one.base, 100 * 2**20)


@pytest.mark.slow
def test_what_a_measured_process_refuses_is_told_in_its_own_words(place, tiny_model, tuning):
    parts = {"vision_tower": "frozen", "connector": "frozen", "language_model": "lora"}
    with pytest.raises(ValueError, match=r"leaves none; set optimizer: adamw in params.yaml"):
        plan(job(place, tiny_model, tuning, parts=parts, optimizer="muon"), steps=1)


def test_the_state_of_an_optimizer_is_counted_in_bytes():
    weight = torch.nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    assert rehearsal._state(optimizer) == 2 * 10 * 4 + 4
