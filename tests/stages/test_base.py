import pytest

from stages.base import Params, base
from stages.models.loading import load_model, load_processor

PARAMS = {
    "model": "tiny",
    "revision": None,
    "seed": 1,
    "tiny": {
        "image_size": 16, "patch_size": 8, "vision_width": 16, "vision_layers": 2,
        "text_width": 32, "text_layers": 2, "heads": 2, "vocabulary": 600,
    },
}  # fmt: skip


def test_the_tiny_model_knows_the_words_of_the_embedded_collection(tmp_path):
    base(Params.model_validate(PARAMS), tmp_path / "model")
    tokenizer = load_processor(tmp_path / "model").tokenizer
    assert len(tokenizer("Is there a red square in the image?")["input_ids"]) <= 11
    assert len(tokenizer) == 600


def test_a_local_folder_becomes_the_base_model(tmp_path, tiny_model):
    base(Params.model_validate({**PARAMS, "model": str(tiny_model)}), tmp_path / "model")
    assert load_model(tmp_path / "model").num_parameters() == load_model(tiny_model).num_parameters()


def test_a_name_that_is_no_folder_and_has_no_commit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no local folder.*base.revision must pin"):
        base(Params.model_validate({**PARAMS, "model": "models/mine"}), tmp_path / "model")
