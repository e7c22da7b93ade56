import copy

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus.suite import as_result, merged, run_suite

# Of Great Expectations 1.24, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated")

SUITE = {
    "none_empty": gxe.ExpectColumnValuesToBeInSet(column="empty", value_set=[0]),
    "not_too_long": gxe.ExpectColumnValuesToBeBetween(column="words", max_value=9),
}


def table(rows):
    return pd.DataFrame({"empty": [row[0] for row in rows], "words": [row[1] for row in rows]}, dtype="float32")


def test_the_rows_that_break_each_expectation_are_named_and_nan_breaks_none():
    findings, broken = run_suite(SUITE, table([(0, 10), (1, 3), (np.nan, 9), (2, np.nan)]))
    assert {name: places.tolist() for name, places in broken.items()} == {"none_empty": [1, 3], "not_too_long": [0]}
    assert findings["none_empty"]["missing_count"] == 1
    assert findings["none_empty"]["values"] == [[1.0, 1], [2.0, 1]]


CELL = st.one_of(st.none(), st.integers(0, 15).map(float))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.tuples(CELL, CELL), max_size=40), min_size=1, max_size=3))
def test_pieces_merged_are_the_whole(pieces):
    whole, broken = run_suite(SUITE, table([row for piece in pieces for row in piece]))
    parts = [run_suite(SUITE, table(piece)) for piece in pieces]
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])

    assert merged(found for found, _ in parts) == whole
    for name, places in broken.items():
        assert places.tolist() == [
            start + place for start, (_, found) in zip(starts, parts, strict=False) for place in found[name]
        ]


def test_a_result_says_what_great_expectations_says_itself():
    rows = table([(0, 10), (1, 3), (np.nan, 9), (1, 11), (2, np.nan)])
    ours = as_result(
        "rows", SUITE, merged([run_suite(SUITE, rows[:2])[0], run_suite(SUITE, rows[2:].reset_index(drop=True))[0]])
    )
    batches = gx.get_context(mode="ephemeral").data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = batches.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": rows})
    for one in ours.results:
        name = one.expectation_config.meta["name"]
        theirs = batch.validate(copy.copy(SUITE[name]))
        assert one.success == theirs.success
        assert {key: theirs.result[key] for key in one.result if key in theirs.result} == {
            key: value for key, value in one.result.items() if key in theirs.result
        }
    assert ours.statistics["unsuccessful_expectations"] == 2


def test_an_expectation_that_cannot_be_evaluated_is_our_own_mistake():
    with pytest.raises(AssertionError, match="not_too_long could not be evaluated"):
        run_suite(SUITE, table([(0, 1)]).drop(columns="words"))
