import json

import pytest

from stages.models import loading


def test_a_hub_model_needs_a_pinned_commit(tmp_path):
    for revision in (None, "main", "v1.0", "abc123"):
        with pytest.raises(ValueError, match=r"base.revision must pin its commit \(40 hex digits\), got"):
            loading.fetch("llava-hf/llava-1.5-7b-hf", revision, tmp_path / "model")


def test_a_pinned_hub_model_is_fetched_at_that_commit_without_pickles_or_code(tmp_path, monkeypatch, tiny_model):
    asked = {}

    def snapshot_download(repo, *, revision, local_dir, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        loading.fetch(str(tiny_model), None, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    loading.fetch("someone/some-vlm", "0123456789" * 4, tmp_path / "model")

    assert (asked["repo"], asked["revision"]) == ("someone/some-vlm", "0123456789" * 4)
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked["patterns"])
    loading.load_model(tmp_path / "model")


def test_a_local_folder_is_copied_without_pickles_and_code(tmp_path, tiny_model):
    source = tmp_path / "source"
    loading.fetch(str(tiny_model), None, source)
    for name in ("pytorch_model.bin", "modeling_evil.py"):
        (source / name).write_bytes(b"danger")
    loading.fetch(str(source), None, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in tiny_model.iterdir()}


def test_a_model_with_pickled_weights_only_is_refused(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"danger")
    with pytest.raises(ValueError, match=r"has no \*\.safetensors file"):
        loading.fetch(str(source), None, tmp_path / "model")


@pytest.mark.parametrize(("said", "stops"), [(7, {7}), ([7, 9], {7, 9}), (None, set())], ids=str)
def test_a_model_stops_where_its_generation_config_says(tmp_path, tiny_model, said, stops):
    loading.fetch(str(tiny_model), None, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    loaded = loading.load_model(tmp_path / "model").generation_config.eos_token_id
    assert loaded == said
    assert loading.load_stops(tmp_path / "model") == stops


@pytest.mark.parametrize("named", [True, False])
def test_a_model_without_a_generation_config_stops_where_its_own_config_says(tmp_path, tiny_model, named):
    loading.fetch(str(tiny_model), None, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    end = config["text_config"].pop("eos_token_id")
    config["text_config"] |= {"eos_token_id": end} if named else {}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert loading.load_model(tmp_path / "model").generation_config.eos_token_id == (end if named else None)
    assert loading.load_stops(tmp_path / "model") == ({end} if named else set())


def test_a_processor_without_a_chat_template_is_refused(tmp_path, tiny_model):
    loading.fetch(str(tiny_model), None, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"no chat template"):
        loading.load_processor(tmp_path / "model")
