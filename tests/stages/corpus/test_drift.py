import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from stages.corpus.drift import FIGURES, compared, drift, read_accepted

LIMITS = dict.fromkeys(FIGURES, 0.01)
CORPUS = {
    "tasks": {"flan": {"counting": 300, "reading": 700}, "chats": {"chat": 500}},
    "kinds": {"short": 1000, "conversation": 500},
    "answer_words": {"1": 500, "2": 500, "16": 500},
    "picture_sides": {"64": 1500},
}
COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), min_size=1)


def test_a_corpus_has_not_drifted_from_itself():
    assert [(one.name, one.divergence, one.too_far) for one in drift(CORPUS, CORPUS, LIMITS)] == [
        (name, 0, False) for name in FIGURES
    ]


def test_the_figure_that_has_changed_is_named_and_what_moved_in_it():
    changed = {**CORPUS, "tasks": {"flan": {"counting": 700, "reading": 300}, "chats": {"chat": 500}}}
    mix, *others = drift(changed, CORPUS, LIMITS)
    assert (mix.name, mix.too_far, [one.too_far for one in others]) == ("task_mix", True, [False] * 3)
    assert [(part.name, part.weight > 0) for part in mix.parts] == [
        ("chats · chat", False), ("flan · counting", True), ("flan · reading", True),
    ]  # fmt: skip


@given(COUNTS)
def test_more_of_the_same_is_no_drift(counts):
    twice = {name: 2 * rows for name, rows in counts.items()}
    assert compared("task_mix", twice, counts, 0).divergence == pytest.approx(0, abs=1e-12)
    assert compared("task_mix", counts, counts, 0).divergence == 0


@given(COUNTS, COUNTS)
def test_the_divergence_is_between_0_and_1_the_same_from_both_sides_and_scipys(now, was):
    there, back = compared("task_mix", now, was, 0), compared("task_mix", was, now, 0)
    assert 0 <= there.divergence <= 1
    assert there.divergence == pytest.approx(back.divergence)
    if sum(now.values()) and sum(was.values()):
        names = sorted({*now, *was})
        theirs = jensenshannon([now.get(name, 0) for name in names], [was.get(name, 0) for name in names], base=2)
        assert there.divergence == pytest.approx(theirs**2, abs=1e-9)


def test_nothing_in_common_is_1_even_beside_no_rows_at_all():
    assert compared("kind_mix", {"a": 5}, {"b": 5}, 0).divergence == 1
    assert compared("kind_mix", {"a": 5}, {}, 0).divergence == 1
    assert compared("kind_mix", {}, {}, 0).divergence == 0


def test_bins_are_told_in_the_order_of_their_numbers():
    assert [part.name for part in compared("answer_words", {"16": 1, "4": 1}, {"128": 1}, 0).parts] == ["4", "16", "128"]


def test_an_accepted_corpus_is_a_file_of_the_folder(tmp_path):
    assert read_accepted(tmp_path, None) is None
    (tmp_path / "june.json").write_text(json.dumps(CORPUS))
    assert read_accepted(tmp_path, "june") == CORPUS


@pytest.mark.parametrize(
    ("text", "fault"),
    [(None, "there is no .*june.json; copy"), ("{", "is no JSON"), ("[]", "is no summary"), ('{"tasks": {}}', "is no summary")],
)
def test_what_is_no_summary_is_refused_and_says_what_to_do(tmp_path, text, fault):
    if text is not None:
        (tmp_path / "june.json").write_text(text)
    with pytest.raises(ValueError, match=fault):
        read_accepted(tmp_path, "june")
