import json

import pytest
import torch
from safetensors.torch import load_file

from stages.connect import Params, connect


def test_connect_tunes_the_connector_alone_when_the_rest_is_frozen(place, tiny_model, tuning):
    parts = {"vision_tower": "frozen", "connector": "full", "language_model": "frozen"}
    params = Params.model_validate({**tuning, "parts": parts})

    connect(params, place / "rendered", place / "ingested", tiny_model, place / "model", place / "m.json", place / "c.csv")

    before, after = load_file(tiny_model / "model.safetensors"), load_file(place / "model" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert set(json.loads((place / "model" / "tuned_parameters.json").read_text())) >= {
        f"model.{name.removeprefix('model.')}" for name in changed
    }


def test_connect_has_nothing_to_replay_and_says_so(place, tiny_model, tuning):
    params = Params.model_validate({**tuning, "replay": 0.5})
    with pytest.raises(ValueError, match=r"connect\.replay must be 0, got 0\.5: no stage comes before it"):
        connect(params, place / "rendered", place / "ingested", tiny_model, place / "model", place / "m.json", place / "c.csv")
