"""What the tests of stages share."""

from typing import Any

import pytest

from stages.corpus.images import ImageWriter
from stages.trees import tree
from stages.trees.tree import Branch, Tree


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """What a stage keeps for its next run lies below the folder it stands in: here one of the test's own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("stands"))


@pytest.fixture
def place(tmp_path, tiny_model, monkeypatch, png, mlflow_store):
    """A folder with eight trees to learn from, and the tiny model; the process stands in it."""
    monkeypatch.chdir(tmp_path)
    from stages.models.loading import load_processor

    image_id = load_processor(tiny_model).image_token_id
    with ImageWriter(tmp_path / "ingested" / "s", shard_mib=1) as writer:
        shown = [writer.add(png(colour)) for colour in ("red", "green", "blue", "white", "black", "cyan", "pink", "gold")]
    (tmp_path / "rendered").mkdir()
    tree.write(
        tmp_path / "rendered" / "00000.parquet",
        [
            Tree(
                (digest,),
                (3, *[image_id] * 4),
                tuple(
                    Branch("s", 3 * number + k, "t", "short", (10 + k, 4, 30 + number, 1), (False, False, True, True))
                    for k in range(1 + number % 3)
                ),
            )
            for number, digest in enumerate(shown)
        ],
    )
    return tmp_path


@pytest.fixture
def tuning() -> dict[str, Any]:
    """The params of a stage that tunes, for a run of a second."""
    return {
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "processes": 1,
        "accelerate": None,
        "workers": 0,
        "precision": "bf16",
        "checkpoint_activations": False,
        "cache_features": False,
        "parts": {"vision_tower": "full", "connector": "full", "language_model": "full"},
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "dora": False, "rslora": False, "quantize": "none"},
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "learning_rates": {"vision_tower": None, "connector": None, "language_model": None},
        "muon_learning_rate": 0.01,
        "warmup": 0.1,
        "weight_decay": 0.0,
        "beta2": 0.98,
        "replay": 0.0,
        "epochs": 3.0,
        "step_size": 4,
        "step_unit": "trees",
        "tokens_per_batch": 36,
        "checkpoint_steps": 100,
        "jump": 0.0,
        "weighting": "example",
        "share_prefix": "auto",
    }
