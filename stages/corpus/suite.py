"""Expectations held against a table by Great Expectations, in memory, whole or piece by piece; and the rows that break them."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

FIRST_ONES = 20
"""Broken values that a result names, as Great Expectations has it."""

Findings = dict[str, dict[str, Any]]
"""The name of each expectation → what Great Expectations found of it in some rows, as plain values."""


def run_suite(suite: Mapping[str, Expectation], table: pd.DataFrame) -> tuple[Findings, dict[str, np.ndarray]]:
    """What Great Expectations finds, in a context that lives in memory and writes nothing; and which rows break what.

    Args:
        suite: expectations of single values, by name.
        table: numbers; NaN where an expectation has nothing to say.

    Returns:
        Findings that `merged` takes, and the places (int64, from 0) of the rows that break each expectation.
    """
    # An expectation belongs to one suite for ever, and this one may be run on the next piece.
    named = {name: copy.copy(expectation) for name, expectation in suite.items()}
    for name, expectation in named.items():
        expectation.meta = {"name": name}
    # Not by a ValidationDefinition: it stores each result, which takes longer than to find it.
    result = (
        _batches()
        .get_batch({"dataframe": table})
        .validate(
            gx.ExpectationSuite(name="contract", expectations=list(named.values())), result_format={"result_format": "COMPLETE"}
        )
    )
    found = {_name(one): one for one in result.results}
    assert found.keys() == suite.keys(), "expectations got lost on the way through the suite"
    for name, one in found.items():
        # Great Expectations reports a crash of its own as a failed expectation.
        assert not _crashed(one.exception_info), f"{name} could not be evaluated: {one.exception_info}"
    findings = {name: _plain(found[name].result) for name in suite}
    return findings, {name: np.array(found[name].result.get("unexpected_index_list") or [], np.int64) for name in suite}


@cache
def _batches() -> BatchDefinition:
    """Where tables go in. One for the process: each context leaves a temporary folder behind."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")


def _name(result: ExpectationValidationResult) -> str:
    assert result.expectation_config is not None
    return str(result.expectation_config.meta["name"])


def _crashed(info: Mapping[str, Any]) -> bool:
    return info.get("raised_exception", True)


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that adds up: how many values, how many of them missing or unexpected, and the first of these."""
    first = [float(value) for value in result.get("partial_unexpected_list", [])][:FIRST_ONES]
    places = [int(place) for place in result.get("partial_unexpected_index_list") or []][:FIRST_ONES]
    return {
        "element_count": int(result["element_count"]),
        "missing_count": int(result["missing_count"]),
        "unexpected_count": int(result["unexpected_count"]),
        "partial_unexpected_list": first,
        "partial_unexpected_index_list": places,
        "values": [[float(value), count] for value, count in Counter(result.get("unexpected_list", [])).items()],
    }


def merged(pieces: Iterable[Findings]) -> Findings:
    """The findings of a table from those of its pieces, in the order of their rows: the same as if it had been held whole."""
    whole: Findings = {}
    for piece in pieces:
        for name, found in piece.items():
            if name not in whole:
                whole[name] = copy.deepcopy(found)
                continue
            one = whole[name]
            room = FIRST_ONES - len(one["partial_unexpected_list"])
            one["partial_unexpected_list"] += found["partial_unexpected_list"][:room]
            one["partial_unexpected_index_list"] += [
                one["element_count"] + place for place in found["partial_unexpected_index_list"][:room]
            ]
            values = Counter({value: count for value, count in one["values"]})
            values.update({value: count for value, count in found["values"]})
            one["values"] = [[value, count] for value, count in values.items()]
            for count in ("element_count", "missing_count", "unexpected_count"):
                one[count] += found[count]
    return whole


def as_result(name: str, suite: Mapping[str, Expectation], findings: Findings) -> ExpectationSuiteValidationResult:
    """`findings` as the result that Great Expectations would have given of `suite`, for its own page; `name` is the suite's."""
    results = [_result(one, expectation, findings[one]) for one, expectation in suite.items()]
    held = sum(bool(one.success) for one in results)
    return ExpectationSuiteValidationResult(
        success=held == len(results),
        results=results,
        suite_name=name,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": held,
            "unsuccessful_expectations": len(results) - held,
            "success_percent": 100 * held / len(results) if results else None,
        },
        meta={"great_expectations_version": gx.__version__},
    )


def _result(name: str, expectation: Expectation, found: Mapping[str, Any]) -> ExpectationValidationResult:
    rows, missing, bad = found["element_count"], found["missing_count"], found["unexpected_count"]
    configuration = expectation.configuration
    configuration.meta = {"name": name}
    counted = sorted(found["values"], key=lambda one: (-one[1], one[0]))[:FIRST_ONES]
    return ExpectationValidationResult(
        success=bad == 0,
        expectation_config=configuration,
        result={
            "element_count": rows,
            "unexpected_count": bad,
            "unexpected_percent": 100 * bad / (rows - missing) if rows > missing else None,
            "partial_unexpected_list": found["partial_unexpected_list"],
            "missing_count": missing,
            "missing_percent": 100 * missing / rows if rows else None,
            "unexpected_percent_total": 100 * bad / rows if rows else None,
            "unexpected_percent_nonmissing": 100 * bad / (rows - missing) if rows > missing else None,
            "partial_unexpected_counts": [{"value": value, "count": count} for value, count in counted],
            "partial_unexpected_index_list": found["partial_unexpected_index_list"],
        },
        exception_info={"raised_exception": False, "exception_traceback": None, "exception_message": None},
    )
