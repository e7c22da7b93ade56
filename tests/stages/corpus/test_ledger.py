import pytest

from stages.corpus import ledger
from stages.corpus.ledger import ON, Count, Line


def line(row, state=ON, reason="", source="a"):
    return Line(source, row, str(row), "task", state, reason)


def test_lines_come_back_sorted_by_source_and_row(tmp_path):
    ledger.write(tmp_path / "ledger.parquet", [line(1, source="b"), line(2), line(0, "unreadable", "no_answer")])
    assert [(one.source, one.row) for one in ledger.read(tmp_path / "ledger.parquet")] == [("a", 0), ("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    "lines", [[line(0, "lost", "why")], [line(0, "unreadable")], [line(0), line(0)]], ids=["state", "reason", "twice"]
)
def test_a_wrong_line_is_our_own_bug(tmp_path, lines):
    with pytest.raises(AssertionError):
        ledger.write(tmp_path / "ledger.parquet", lines)


def test_every_row_ends_in_one_state():
    parts = [
        [line(0), line(1, "unreadable", "no_answer"), line(2)],
        [line(0), line(2, "quarantined", "kind_is_known")],
        [line(0, "ready", "train")],
    ]
    assert [one.state for one in ledger.join(parts)] == ["ready", "unreadable", "quarantined"]


def test_the_file_a_row_stands_in_is_known_at_its_end():
    first = [Line("a", 0, "0", "task", ON, file="a.json"), Line("a", 1, "1", "task", "unreadable", "no_answer", "b.json")]
    assert [one.file for one in ledger.join([first, [line(0)], [line(0, "ready", "train")]])] == ["a.json", "b.json"]
    assert ledger.join([]) == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[line(0), line(1)], [line(0, "ready", "train")]], "1 rows lost"),
        ([[line(0)], [line(0, "ready", "train"), line(1, "ready", "train")]], "1 rows from nowhere"),
        ([[line(0)], [line(0)]], "1 rows have no final state"),
    ],
)
def test_ledgers_that_do_not_add_up_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        ledger.join(parts)


def test_the_funnel_counts_by_the_name_of_the_reason_in_the_order_of_the_chain():
    lines = [
        line(0, "ready", "train"),
        line(1, "unreadable", "missing_image: a.png"),
        line(2, "unreadable", "missing_image: b.png"),
        line(3, "held_out", "picture_held_out"),
        line(0, "ready", "align", source="b"),
    ]
    assert ledger.funnel(lines) == [
        Count("a", "unreadable", "missing_image", 2),
        Count("a", "held_out", "picture_held_out", 1),
        Count("a", "ready", "train", 1),
        Count("b", "ready", "align", 1),
    ]


def test_parts_are_read_per_stage_and_what_a_killed_run_left_is_passed_over(tmp_path):
    for name in ("ingest/a", "ingest/.b.partial", "validate"):
        (tmp_path / name).mkdir(parents=True)
    ledger.write(tmp_path / "ingest/a/ledger.parquet", [line(0)])
    ledger.write(tmp_path / "ingest/.b.partial/ledger.parquet", [line(0, source="b")])
    ledger.write(tmp_path / "validate/ledger.parquet", [line(0, "quarantined", "kind_is_known")])
    parts = ledger.read_parts(tmp_path / "ingest", tmp_path / "validate")
    assert [len(part) for part in parts] == [1, 1]
    assert [one.state for one in ledger.join(parts)] == ["quarantined"]
