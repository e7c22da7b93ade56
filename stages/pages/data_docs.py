"""Great Expectations' own page about a run, as a page of ours that says the same each time and asks no server for its looks."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaSectionView
from markupsafe import Markup

from stages.pages.page import write_page

SIGNS = {"check-circle": "✓", "times": "✗", "exclamation-triangle": "!"}


def write_data_docs(path: Path, results: Sequence[ExpectationSuiteValidationResult]) -> None:
    """Write Great Expectations' pages about `results` on one page of ours, because its own load their looks from servers.

    The sections are HTML, and what comes from data is escaped in them already.
    """
    write_page(
        path, "docs.html", sections=[Markup(_with_letters(section)) for result in results for section in _sections(result)]
    )


def _sections(result: ExpectationSuiteValidationResult) -> list[str]:
    """The sections of Great Expectations' own page about a run, without its clocks."""
    meta: Any = result.meta
    meta["run_id"] = RunIdentifier(run_name="validate", run_time=datetime(2000, 1, 1, tzinfo=UTC))
    for name in ("batch_markers", "validation_id", "validation_time", "active_batch_definition"):
        meta.pop(name, None)
    for one in result.results:
        for name in ("unexpected_index_list", "unexpected_index_query", "unexpected_list"):
            one.result.pop(name, None)
        one.result = _escaped(one.result)
        if one.expectation_config is not None and one.expectation_config.description:
            one.expectation_config.description = escape(one.expectation_config.description)
    view: Any = DefaultJinjaSectionView()
    document = ValidationResultsPageRenderer().render(result)
    sections = [
        view.render({"section": section.to_json_dict(), "section_loop": {"index": number}})
        for number, section in enumerate(document.sections)
    ]
    # Every render gives its foldable parts new random names.
    return [re.sub(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", section) for section in sections]


def _escaped(value: Any) -> Any:
    """Texts in a result made safe to show: Great Expectations' templates put data into the page as it is."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {name: _escaped(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(one) for one in value]
    return value


def _with_letters(section: str) -> str:
    """The section with its signs as letters; upstream they are glyphs of a font from a server.

    Links to other pages of Great Expectations, which nobody writes here, are words.
    """
    section = re.sub(r"""<a [^>]*href=["'][^"'#][^>]*>(.*?)</a>""", r"\1", section, flags=re.DOTALL)
    return re.sub(r'<i class="fas fa-([a-z-]+)[^>]*></i>', lambda sign: SIGNS.get(sign[1], ""), section)
