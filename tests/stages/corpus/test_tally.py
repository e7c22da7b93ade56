import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.tally import doubled, summary, tally, tasks, together

NAMES = ["source", "task", "kind", "answer_words", "words", "says_yes", "longest_side"]
TYPES = {
    "source": pl.String, "task": pl.String, "kind": pl.String, "answer_words": pl.Int32, "words": pl.Int32,
    "says_yes": pl.Float32, "longest_side": pl.Float32,
}  # fmt: skip


def rows(*given):
    return pl.DataFrame([dict(zip(NAMES, one, strict=True)) for one in given], schema=TYPES)


ROW = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["x", "y", ""]), st.sampled_from(["short", "judgement"]), st.integers(0, 9),
    st.integers(9, 20), st.sampled_from([None, 0.0, 1.0]), st.one_of(st.none(), st.integers(1, 4000).map(float)),
)  # fmt: skip


@given(st.lists(st.lists(ROW, max_size=12), min_size=1, max_size=4))
def test_shards_add_up_to_the_whole_in_whatever_order_they_come(parts):
    whole = tally(rows(*(one for part in parts for one in part)))
    shards = [tally(rows(*part)) for part in parts]
    assert together(shards).equals(whole)
    assert together(reversed(shards)).equals(whole)
    assert whole["rows"].sum() == sum(map(len, parts))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_lengths_are_the_least_that_a_half_and_95_percent_do_not_exceed(lengths):
    told = tasks(tally(rows(*(("s", "t", "short", length, length, None, None) for length in lengths))), 1).row(0, named=True)
    for name, share in (("median_answer_words", 0.5), ("long_answer_words", 0.95)):
        assert told[name] == np.quantile(lengths, share, method="inverted_cdf")


def test_a_task_has_a_line_of_its_own_in_each_source():
    counted = tally(
        rows(
            ("a", "x", "judgement", 1, 5, 1.0, 40.0), ("a", "x", "judgement", 1, 5, 0.0, 40.0),
            ("a", "x", "judgement", 1, 5, 1.0, 40.0), ("a", "x", "judgement", 2, 5, None, 40.0),
            ("b", "x", "short", 4, 4, None, None),
        )
    )  # fmt: skip
    assert tasks(counted, 3).rows() == [("a", "x", 4, 1, 2, pytest.approx(2 / 3), 0.25), ("b", "x", 1, 4, 4, None, 1.0)]
    assert tasks(counted, 4)["yes_share"].to_list() == [None, None], "three judgements are too few to say anything"
    assert summary(counted, {"a": {"licence": "MIT"}, "b": {}, "c": {}}) == {
        "rows": 5,
        "sources": {"a": {"licence": "MIT"}, "b": {}, "c": {}},
        "tasks": {"a": {"x": 4}, "b": {"x": 1}, "c": {}},
        "kinds": {"judgement": 4, "short": 1},
        "answer_words": {"1": 3, "2": 1, "4": 1},
        "picture_sides": {"64": 4},
    }


def test_bins_double():
    values = pl.DataFrame({"n": [0, 1, 2, 3, 4, 5, 8, 9, 64, 65, 8192, None]})
    assert values.select(doubled("n")).to_series().to_list() == [0, 1, 2, 4, 4, 8, 8, 16, 64, 128, 8192, None]


def test_no_rows_at_all_have_no_tasks():
    assert tasks(tally(rows()), 1).is_empty()
