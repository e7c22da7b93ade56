"""Expectations held against a table by Great Expectations, in memory, and the rows that break them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation


def run_suite(suite: Mapping[str, Expectation], table: pd.DataFrame) -> ExpectationSuiteValidationResult:
    """What Great Expectations finds, in a context that lives in memory and writes nothing."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    for name, expectation in suite.items():
        expectation.meta = {"name": name}
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    definition = gx.ValidationDefinition(
        name="contract",
        data=batch,
        suite=context.suites.add(gx.ExpectationSuite(name="contract", expectations=list(suite.values()))),
    )
    result = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": table}, result_format={"result_format": "COMPLETE"}
    )
    for one in result.results:
        # Great Expectations reports a crash of its own as a failed expectation.
        assert not _crashed(one.exception_info), f"{_name(one)} could not be evaluated: {one.exception_info}"
    order = list(suite)
    result.results.sort(key=lambda one: order.index(_name(one)))
    assert [_name(one) for one in result.results] == order, "expectations got lost on the way through the suite"
    return result


def _name(result: ExpectationValidationResult) -> str:
    assert result.expectation_config is not None
    return str(result.expectation_config.meta["name"])


def _crashed(info: Mapping[str, Any]) -> bool:
    return info.get("raised_exception", True)


def broken_rows(result: ExpectationSuiteValidationResult) -> dict[int, list[str]]:
    """The number of every row that breaks the contract → the expectations it breaks, in the suite's order."""
    broken: dict[int, list[str]] = defaultdict(list)
    for one in result.results:
        for number in one.result.get("unexpected_index_list") or []:
            broken[int(number)].append(_name(one))
    return dict(broken)
