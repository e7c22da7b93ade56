import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def parts(*given):
    return [ledger.table_of(lines) for lines in given]


def states(final):
    return final["state"].to_list()


def test_every_row_ends_in_one_state():
    final = ledger.join(
        parts(
            [line(0), line(1, "unreadable", "no_answer"), line(2)],
            [line(0), line(2, "quarantined", "kind_is_known")],
            [line(0, "ready", "train")],
        )
    )
    assert states(final) == ["ready", "unreadable", "quarantined"]


def test_labels_and_file_of_a_row_are_those_it_came_with():
    first = [Line("a", 0, "0", "task", ON, file="a.json"), Line("a", 1, "1", "task", "unreadable", "no_answer", "b.json")]
    final = ledger.join(parts(first, [line(0)], [Line("a", 0, "", "", "ready", "train")]))
    assert ledger.lines_of(final) == [
        Line("a", 0, "0", "task", "ready", "train", "a.json"),
        Line("a", 1, "1", "task", "unreadable", "no_answer", "b.json"),
    ]
    assert ledger.lines_of(ledger.join([])) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[line(0), line(1)], [line(0, "ready", "train")]], r"at validate: 1 rows lost \(first \['a:1'\]\), 0 rows from"),
        ([[line(0)], [line(0, "ready", "train"), line(1, "ready", "train")]], r"1 rows from nowhere \(first \['a:1'\]\)"),
        ([[line(0)], [line(0), line(0, "quarantined", "kind_is_known")]], "2 lines of rows that have several"),
        ([[line(0), line(0)]], "at ingest: .* 2 lines of rows that have several"),
        ([[line(0)], [line(0)]], "1 rows have no final state"),
        ([[line(7, source=source) for source in "ab"], [line(7, source=source) for source in "bc"]], "1 rows lost .*'a:7'"),
    ],
    ids=["lost", "strange", "twice", "twice at first", "unended", "other source"],
)
def test_ledgers_that_do_not_add_up_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ledger.join(parts(*given))


def test_the_order_of_a_part_is_nobodys_business():
    final = ledger.join(parts([line(0), line(1)], [line(1, "quarantined", "kind_is_known"), line(0, "ready", "train")]))
    assert states(final) == ["ready", "quarantined"]


def test_in_the_middle_of_the_chain_rows_are_on_their_way():
    given = parts([line(0), line(1)], [line(0), line(1, "quarantined", "kind_is_known")])
    assert states(ledger.join(given, whole=False)) == [ON, "quarantined"]


READY = parts(
    [line(row) for row in range(3)], [line(0, "ready", "train"), line(1, "ready", "align"), line(2, "ready", "train")]
)
TRAINED = [line(0, "trained", "train: 2 epochs, steps 1 4"), line(2, "unseen", "train: no epoch")]


def test_what_is_ready_is_trained_once_its_stage_has_run():
    (part,) = parts(TRAINED)
    assert states(ledger.join(READY)) == ["ready"] * 3
    assert states(ledger.join(READY, {"train": part})) == ["trained", "ready", "unseen"]


def test_a_replay_changes_no_rows_state():
    train, align = parts(
        TRAINED, [line(1, "trained", "align: 1 epoch, step 1"), line(0, ON, "align: replayed, 1 epoch, step 1")]
    )
    final = ledger.join(READY, {"train": train, "align": align})
    assert states(final) == ["trained", "trained", "unseen"]
    assert final["reason"][0] == "train: 2 epochs, steps 1 4"


@pytest.mark.parametrize(
    ("lines", "message"),
    [(TRAINED[:1], "at train: 1 rows lost"), ([*TRAINED, line(1, "trained", "train: 1 epoch, step 1")], "1 rows from nowhere")],
)
def test_a_tuning_stage_accounts_for_exactly_the_rows_that_were_ready_for_it(lines, message):
    (part,) = parts(lines)
    with pytest.raises(ValueError, match=message):
        ledger.join(READY, {"train": part})


ENDS = st.lists(st.sampled_from(["unreadable", "quarantined", "duplicate", "too_long", "ready"]), max_size=40)


@given(ends=ENDS, sources=st.lists(st.sampled_from("ab"), min_size=40, max_size=40))
def test_whatever_ends_where_the_states_add_up_to_the_rows(ends, sources):
    order = [ledger.STATES[end] for end in ends]
    found = [
        [
            line(row, end if where == stage else ON, "why" if where == stage else "", source)
            for row, (end, where, source) in enumerate(zip(ends, order, sources, strict=False))
            if ledger.CHAIN.index(where) >= ledger.CHAIN.index(stage)
        ]
        for stage in ledger.CHAIN
    ]
    final = ledger.join(parts(*found))
    assert states(final) == ends
    assert sum(count.rows for count in ledger.funnel(final)) == len(ends)
    if ends:
        lost = [one[:-1] if number == ledger.CHAIN.index(order[-1]) else one for number, one in enumerate(found)]
        if order[-1] != "ingest":
            with pytest.raises(ValueError, match="1 rows lost"):
                ledger.join(parts(*lost))


def test_the_funnel_counts_by_the_name_of_the_reason_in_the_order_of_the_chain():
    lines = [
        line(0, "ready", "train"),
        line(1, "unreadable", "missing_image: a.png"),
        line(2, "unreadable", "missing_image: b.png\n: c"),
        line(3, "held_out", "picture_held_out"),
        line(0, "ready", "align", source="b"),
    ]
    assert ledger.funnel(ledger.table_of(lines)) == [
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
    read = ledger.read_parts(tmp_path / "ingest", tmp_path / "validate")
    assert [len(part) for part in read] == [1, 1]
    assert ledger.lines_of(ledger.join(read)) == [line(0, "quarantined", "kind_is_known")]
    assert [len(part) for part in ledger.read_parts(tmp_path / "nothing")] == [0]


def test_tuning_stages_that_have_not_run_have_no_part(tmp_path):
    (tmp_path / "train").mkdir()
    ledger.write(tmp_path / "train/ledger.parquet", TRAINED)
    read = ledger.read_tuned(tmp_path / stage for stage in ledger.TUNING)
    assert {stage: len(part) for stage, part in read.items()} == {"train": 2}
