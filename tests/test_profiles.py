"""Profiles: each recipe is the set it stands on with its own changes, every one is a whole and valid set, and none is lost."""

from pathlib import Path

import pytest

from stages.running import profile
from stages.running.profile import put, read_profile, written
from stages.running.section import read_params

ROOT = Path(__file__).parents[1]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
NAMED = {path.stem: path for path in PROFILES}
STAGES = ("connect", "train", "align")

WHOLE = """# All of it.

base:
  model: tiny       # which
  sizes: {a: 1, b: 2}

ingest:
  sources:          # by name
    one: {folder: x}

  shard: 5          # rows
"""
RECIPE = """# A recipe.
over: whole

base:
  model: large      # its own
  sizes: {b: 3}
ingest:
  sources:
    two: {folder: y}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "whole.yaml").write_text(WHOLE)
    (tmp_path / "profiles" / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "params.yaml").write_text(WHOLE)
    return tmp_path


def test_a_recipe_is_what_it_stands_on_with_its_own_keys_and_with_its_own_sources_alone(here):
    assert read_profile(here / "profiles" / "recipe.yaml") == {
        "base": {"model": "large", "sizes": {"a": 1, "b": 3}},
        "ingest": {"sources": {"two": {"folder": "y"}}, "shard": 5},
    }


def test_params_yaml_gets_the_values_and_the_comments_of_both(here):
    assert put("recipe", Path("params.yaml"), force=False)

    text = Path("params.yaml").read_text()
    assert read_params(Path("params.yaml")) == read_profile(Path("profiles/recipe.yaml"))
    assert text.startswith("# A recipe.\n# Written from profiles/recipe.yaml by `make run PROFILE=recipe`.\n")
    assert "model: large      # its own\n" in text
    assert "shard: 5          # rows\n" in text
    assert "# All of it" not in text
    assert not put("recipe", Path("params.yaml"), force=False), "a second time nothing changes"


def test_a_comment_on_another_value_does_not_stay(here):
    Path("profiles/third.yaml").write_text("# Third.\nover: recipe\nbase: {model: small}\n")
    assert "model: small      # which\n" in written(Path("profiles/third.yaml"))


def test_what_a_person_changed_is_not_written_over_unless_they_say_so(here):
    Path("params.yaml").write_text(WHOLE.replace("shard: 5", "shard: 6"))

    with pytest.raises(ValueError, match=r"params.yaml is whole but for ingest.shard, which would be lost\. Keep it"):
        put("recipe", Path("params.yaml"), force=False)
    assert "shard: 6" in Path("params.yaml").read_text()
    assert put("whole", Path("params.yaml"), force=True)
    assert Path("params.yaml").read_text() == WHOLE


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("over: whole\nbase: {modle: x}\n", r"base\.modle is no known key; base has model, sizes"),
        ("over: whole\nbsae: {}\n", r"bsae is no known key; a profile has base, ingest"),
        ("over: gone\n", r"over names 'gone', and there is no .*gone\.yaml"),
        ("over: odd\n", r"over leads back to itself: odd"),
    ],
)
def test_a_faulty_recipe_is_refused_by_name(here, text, fault):
    Path("profiles/odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=fault):
        read_profile(Path("profiles/odd.yaml"))


def test_a_profile_that_is_not_there_is_answered_with_those_that_are(here, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["profile", "llama"])
    assert profile.main() == 2
    assert "no profile 'llama'; profiles/ has recipe, whole" in capsys.readouterr().err


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_what_is_written_of_a_profile_is_what_was_checked_of_it(path, tmp_path):
    (tmp_path / "params.yaml").write_text(written(path))
    assert read_params(tmp_path / "params.yaml") == read_profile(path)


LLAVA = {"optimizer": "adamw", "warmup": 0.03, "weight_decay": 0.0, "beta2": 0.999, "precision": "bf16", "weighting": "token"}
PUBLISHED = {
    # profile: of train, and of align where it is published
    "llava_15_7b": ({"learning_rate": 2e-5, "step_size": 128, "epochs": 1.0}, {}),
    "llava_15_13b": ({"learning_rate": 2e-5, "step_size": 128, "epochs": 1.0}, {}),
    "llava_15_7b_lora": ({"learning_rate": 2e-4, "step_size": 128, "epochs": 1.0}, {}),
    "llava_15_13b_lora": ({"learning_rate": 2e-4, "step_size": 128, "epochs": 1.0}, {}),
    "vision_flan": (
        {"learning_rate": 2e-5, "step_size": 128, "epochs": 1.0},
        {"learning_rate": 1e-5, "step_size": 64, "epochs": 8.192, "dose": 1000},
    ),
    "svit_13b": ({"learning_rate": 2e-5, "step_size": 128, "epochs": 1.0}, {}),
    "svit_13b_lora": ({"learning_rate": 2e-4, "step_size": 128, "epochs": 1.0}, {}),
    "mminstruct": ({"learning_rate": 2e-5, "step_size": 128, "epochs": 1.0}, {}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipes_figures_are_the_published_ones(name):
    values = read_profile(NAMED[name])
    train, align = PUBLISHED[name]
    full = not name.endswith("lora")

    assert train.items() <= values["train"].items()
    assert align.items() <= values["align"].items()
    connect = {"learning_rate": 1e-3, "step_size": 256, "epochs": 1.0}
    assert connect.items() <= values["connect"].items()
    for stage in STAGES:
        assert LLAVA.items() <= values[stage].items()
        assert values[stage]["step_unit"] == "examples"
        assert values[stage]["parts"]["vision_tower"] == "frozen"
        assert values[stage]["parts"]["connector"] == "full"
    assert values["connect"]["parts"]["language_model"] == "frozen"
    assert values["train"]["parts"]["language_model"] == ("full" if full else "lora")
    if not full:
        assert values["train"]["learning_rates"]["connector"] == 2e-5
        assert {"rank": 128, "alpha": 256}.items() <= values["train"]["lora"].items()
    assert values["render"]["max_tokens"] == 2048


def test_two_stages_of_vision_flan_are_as_many_draws_as_published():
    align = read_profile(NAMED["vision_flan"])["align"]
    assert align["dose"] * align["epochs"] / align["step_size"] == 128
