"""The funnel that the report draws."""

from stages.corpus import ledger
from stages.corpus.ledger import ON, Line
from stages.pages.funnel import MOST_REASONS, TOLD, End, Reason, funnels


def line(source: str, row: int, state: str = ON, reason: str = "") -> Line:
    return Line(source, row, "", "t", state, reason)


def test_every_state_is_told_in_words() -> None:
    assert list(TOLD) == list(ledger.STATES)


def test_reasons_of_all_sources_are_counted_together_with_the_detail_of_the_first() -> None:
    gone = [line("a", 0, "unreadable", "missing_image: a.png"), line("b", 0, "unreadable", "missing_image: b.png: no")]
    rest = [line("b", 1, "unreadable", "no_answer"), line("b", 2)]
    parts = [ledger.table_of(lines) for lines in ([*gone, *rest], rest[1:], rest[1:], [line("b", 2, "ready", "align")])]
    whole, a, b = funnels(parts)
    assert whole.steps[0].ends == (
        End("unreadable", 3, (Reason("missing_image", 2, "a.png"), Reason("no_answer", 1, "")), others=0),
    )
    assert [(one.source, one.rows, one.ready) for one in (whole, a, b)] == [("all sources", 4, 1), ("a", 1, 0), ("b", 3, 1)]
    assert [(step.received, step.went_on) for step in b.steps] == [(3, 1), (1, 1), (1, 1), (1, 0)]
    assert b.steps[0].ends[0].reasons[0] == Reason("missing_image", 1, "b.png: no")
    assert whole.ends == {"unreadable": 3, "ready": 1}


def test_of_many_reasons_the_most_frequent_are_named() -> None:
    first = [line("a", row, "unreadable", f"reason_{row}") for row in range(9)]
    parts = [ledger.table_of(lines) for lines in (first, [], [], [])]
    (end,) = funnels(parts)[0].steps[0].ends
    assert (len(end.reasons), end.others) == (MOST_REASONS, 9 - MOST_REASONS)
