import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stages.align import Params as AlignParams
from stages.align import align
from stages.corpus import ledger
from stages.train import Params as TrainParams
from stages.train import train
from stages.trees import tree
from stages.trees.tree import Tree


def renamed(one: Tree, source: str) -> Tree:
    """The same tree, of rows of another source."""
    return replace(one, branches=tuple(replace(branch, source=source) for branch in one.branches))


def test_align_goes_on_from_the_model_that_train_made(place, tiny_model, tuning):
    outs = [place / name for name in ("train", "align")]
    for out in outs:
        out.mkdir()
    files = [(out / "model", out / "m.json", out / "c.csv", out / "l.parquet") for out in outs]

    rendered, ingested = place / "rendered", place / "ingested"
    train(TrainParams.model_validate({**tuning, "epochs": 5.0}), rendered, rendered, ingested, tiny_model, *files[0])
    gentle = AlignParams.model_validate({**tuning, "learning_rate": 0.0001, "dose": 20, "begin": "train"})
    align(gentle, rendered, rendered, ingested, outs[0] / "model", tiny_model, *files[1])

    base, trained, aligned = (
        load_file(folder / "model.safetensors") for folder in (tiny_model, *(one / "model" for one in outs))
    )

    def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        return sum((one[name] - other[name]).norm().item() for name in one)

    assert 0 < distance(trained, aligned) < 0.2 * distance(base, aligned)


def test_the_mixed_single_stage_begins_where_train_began_and_learns_all_of_both_once(place, tiny_model, tuning):
    rendered, ingested = place / "rendered", place / "ingested"
    trees = tree.read(rendered / "00000.parquet")
    tree.write(place / "former" / "00000.parquet", [renamed(one, "f") for one in trees])
    out = place / "out"
    out.mkdir()
    files = [out / "model", out / "m.json", out / "c.csv", out / "l.parquet"]
    mixed = AlignParams.model_validate({**tuning, "dose": 20, "begin": "connect", "replay": 1.0, "epochs": 1.0})

    align(mixed, rendered, place / "former", ingested, place / "never made", tiny_model, *files)

    metrics = json.loads((out / "m.json").read_text())
    assert metrics["trees"] == 2 * metrics["trees_replayed"] == 2 * len(trees)
    steps: dict[str, set[int]] = {"s": set(), "f": set()}
    for line in ledger.read(out / "l.parquet"):
        steps[line.source] |= {int(step) for step in line.reason.rsplit("step ")[-1].split()}
    assert steps["s"] & steps["f"], "both in the same steps"


def test_a_beginning_that_is_none_is_refused(tuning):
    with pytest.raises(ValueError, match=r"Input should be 'train' or 'connect'"):
        AlignParams.model_validate({**tuning, "dose": 20, "begin": "base"})
