import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.models.sections import Tiny
from stages.models.tiny import build, train_tokenizer

SIZES = dict(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, text_width=32, text_layers=2, heads=2, vocabulary=300
)


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        build(Tiny(**SIZES), 5, ["red green", "blue"], tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize(("key", "value"), [("image_size", 20), ("vision_width", 17), ("text_width", 33)])
def test_sizes_that_do_not_divide_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"{key} {value} must be a multiple of"):
        Tiny(**{**SIZES, key: value})


TOKENIZER = train_tokenizer(["red green blue", "What is it?"], 300)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_can_be_written_and_read_back(text):
    if not any(token in text for token in TOKENIZER.added_tokens_encoder):
        assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text
