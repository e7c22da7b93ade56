import json

import pytest
import torch
from safetensors.torch import load_file

from stages.connect import Params, connect
from stages.trees import tree
from stages.trees.tree import Branch, Tree


def test_connect_tunes_the_connector_alone_when_the_rest_is_frozen(place, tiny_model, tuning):
    parts = {"vision_tower": "frozen", "connector": "full", "language_model": "frozen"}
    params = Params.model_validate({**tuning, "parts": parts})

    files = [place / name for name in ("model", "m.json", "c.csv", "ledger.parquet")]
    connect(params, place / "rendered", place / "ingested", tiny_model, *files)

    before, after = load_file(tiny_model / "model.safetensors"), load_file(place / "model" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert set(json.loads((place / "model" / "tuned_parameters.json").read_text())) >= {
        f"model.{name.removeprefix('model.')}" for name in changed
    }


def test_text_alone_is_refused_where_only_picture_parts_are_tuned(place, tiny_model, tuning):
    parts = {"vision_tower": "frozen", "connector": "full", "language_model": "frozen"}
    bare = Tree((), (), (Branch("talks", 7, "t", "short", (3, 10, 4, 30, 1), (False, False, False, True, True)),))
    tree.write(place / "rendered" / "00000.parquet", [*tree.read(place / "rendered" / "00000.parquet"), bare])
    words = r"1 conversations of connect have no picture \(first: row 7 of source talks\), and connect\.parts\.language_model"
    with pytest.raises(ValueError, match=words):
        connect(
            Params.model_validate({**tuning, "parts": parts}),
            place / "rendered",
            place / "ingested",
            tiny_model,
            *[place / name for name in ("model", "m.json", "c.csv", "ledger.parquet")],
        )


def test_connect_has_nothing_to_replay_and_says_so(tuning):
    with pytest.raises(ValueError, match=r"must be 0: no stage comes before connect"):
        Params.model_validate({**tuning, "replay": 0.5})
