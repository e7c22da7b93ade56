import pytest

from stages.corpus import example, ledger
from stages.corpus.example import Example, Turn
from stages.corpus.ledger import Line
from stages.curate import Align, Connect, Params, Train, content, curate, drawn, held_out_pictures, over_cap, unbalanced


def row(number, *, source="tasks", picture=None, task="colour", kind="short", question="What?", answer="red", templated=False):
    images = (f"picture-{number}",) if picture is None else tuple(picture.split())
    turns = (Turn("user", f"<image>\n{question}"), Turn("assistant", answer))
    return Example(source, number, str(number), task, "shapes", kind, "human", images, turns, templated)


def params(*, held_out=0.0, balance=True, rows=100, rows_per_task=100, seed=17):
    return Params(
        seed=seed,
        connect=Connect(sources=["captions"], rows=rows),
        train=Train(sources=["tasks"], rows_per_task=rows_per_task),
        align=Align(sources=["chats"]),
        balance=balance,
        held_out=held_out,
    )


FILLERS = [row(10_000, source="captions"), row(20_000, source="chats")]


def curated(folder, rows, chosen, dose=100):
    """The rows of each output, and the ledger, of a run on `rows`."""
    (folder / "validated").mkdir(parents=True)
    example.write(folder / "validated" / "examples" / "00000.parquet", rows)
    ledger.write(
        folder / "validated" / "ledger.parquet", [Line(one.source, one.row, one.id, one.task, ledger.ON) for one in rows]
    )
    curate(chosen, folder / "validated", str(dose), folder / "curated")
    outs = {name: example.read_all(folder / "curated" / name) for name in ("connect", "train", "align", "held_out")}
    lines = ledger.read(folder / "curated" / "ledger.parquet")
    # Whatever the run did: every row has one line, and goes on if and only if it is in one selection.
    assert [(line.source, line.row) for line in lines] == sorted((one.source, one.row) for one in rows)
    selected = [(one.source, one.row) for name in ("connect", "train", "align") for one in outs[name]]
    assert sorted(selected) == [(line.source, line.row) for line in lines if line.state == ledger.ON]
    return outs, {(line.source, line.row): (line.state, line.reason) for line in lines if line.state != ledger.ON}


def test_each_source_feeds_its_stage_and_a_source_nobody_names_is_unused(tmp_path):
    outs, dropped = curated(tmp_path, [row(0), *FILLERS, row(0, source="birds")], params())
    assert [len(outs[name]) for name in ("connect", "train", "align", "held_out")] == [1, 1, 1, 0]
    assert dropped == {("birds", 0): ("unused", "in_no_stage")}


def test_of_equal_rows_the_first_is_kept_and_named(tmp_path):
    rows = [row(0, picture="a"), row(1, picture="a"), row(2, picture="a", answer="blue"), row(3, picture="b")]
    _, dropped = curated(tmp_path, [*rows, *FILLERS], params())
    assert dropped == {("tasks", 1): ("duplicate", "same_as: tasks#0")}


def test_bare_input_of_another_task_is_no_duplicate_but_a_whole_question_is():
    bare = [row(0, picture="a", templated=True), row(1, picture="a", templated=True, task="shape")]
    assert content(bare[0]) != content(bare[1])
    whole = [row(0, picture="a"), row(1, picture="a", task="shape")]
    assert content(whole[0]) == content(whole[1])


def test_a_row_whose_texts_run_together_alike_is_another_row():
    assert content(row(0, picture="a", question="Is", answer="itred")) != content(
        row(0, picture="a", question="Isit", answer="red")
    )


def test_no_picture_is_in_two_splits_whatever_source_its_rows_are_of(tmp_path):
    rows = [row(number, picture=f"{number // 3}", question=f"{number}?") for number in range(300)]
    others = [row(number, source="chats", picture=f"{number}") for number in range(100)]
    outs, dropped = curated(tmp_path, [*rows, *others, *FILLERS], params(held_out=0.3, rows_per_task=1000), dose=1000)
    held = {picture for one in outs["held_out"] for picture in one.images}
    learned = {picture for name in ("connect", "train", "align") for one in outs[name] for picture in one.images}
    assert not held & learned
    assert {one.source for one in outs["held_out"]} == {"tasks", "chats"}
    assert 15 <= len(held) <= 45
    assert set(dropped.values()) == {("held_out", "picture_held_out")}
    assert len(outs["held_out"]) == len(dropped) == 4 * len(held)


def test_a_picture_held_out_stays_held_out_when_rows_are_added():
    few, many = [[row(number) for number in range(count)] for count in (200, 2000)]
    held_of_few = held_out_pictures(few, ["tasks"], 0.1, 17)
    held_of_many = held_out_pictures(many, ["tasks"], 0.1, 17)
    assert held_of_few == held_of_many & {picture for one in few for picture in one.images}
    assert 140 <= len(held_of_many) <= 260
    assert held_out_pictures(many, ["tasks"], 0.1, 18) != held_of_many
    assert held_of_many <= held_out_pictures(many, ["tasks"], 0.2, 17)


def test_a_row_of_two_pictures_takes_both_to_the_same_side():
    chain = [row(number, picture=f"{number} {number + 1}") for number in range(50)]
    held = held_out_pictures(chain, ["tasks"], 0.05, 17)
    assert held in (set(), {str(number) for number in range(51)})
    assert held_out_pictures([row(0, picture="a b")], ["tasks"], 0.0, 17) == set()


def test_yes_and_no_are_equally_many_in_every_judgement_task():
    rows = [
        row(number, kind="judgement", task=f"task-{number % 2}", answer="Yes" if number % 5 else "No.") for number in range(100)
    ]
    dropped = unbalanced(rows, 17)
    for task in ("task-0", "task-1"):
        left = [one.turns[1].text for one in rows if one.task == task and (one.source, one.row) not in dropped]
        assert left.count("Yes") == left.count("No.") == 10
    assert set(dropped.values()) == {("unbalanced", "more_yes_than_no")}
    assert unbalanced([row(0, answer="Yes")], 17) == {}


def test_the_cap_holds_per_task_and_keeps_the_balance():
    rows = [row(number, task="many") for number in range(30)]
    rows += [row(number, kind="judgement", task="asked", answer="Yes" if number % 2 else "No") for number in range(100, 140)]
    rows += [row(number, task="few") for number in range(200, 205)]
    dropped = over_cap(rows, params(rows_per_task=11))
    left = [one for one in rows if (one.source, one.row) not in dropped]
    assert sum(one.task == "many" for one in left) == 11
    assert sum(one.task == "few" for one in left) == 5
    answers = [one.turns[1].text for one in left if one.task == "asked"]
    assert answers.count("Yes") == answers.count("No") == 5
    assert set(dropped.values()) == {("over_cap", "rows_per_task")}


def mixed(yes, no, short):
    """Rows of one task; the first is a judgement."""
    answers = ["Yes"] * yes + ["No"] * no
    judged = [row(number, kind="judgement", answer=answer) for number, answer in enumerate(answers)]
    return [*judged, *(row(1000 + number) for number in range(short))]


@pytest.mark.parametrize("turned", [False, True])
def test_a_task_that_mixes_kinds_fills_its_cap_with_each_kind_in_its_proportion(turned):
    rows = mixed(yes=10, no=10, short=180)[:: -1 if turned else 1]
    left = {}
    for cap in (19, 40, 41, 80, 120, 199):
        dropped = over_cap(rows, params(rows_per_task=cap))
        kept = [one for one in rows if (one.source, one.row) not in dropped]
        judged = [one.turns[1].text for one in kept if one.kind == "judgement"]
        assert judged.count("Yes") == judged.count("No"), "short rows are of no side"
        assert cap - 1 <= len(kept) <= cap
        assert abs(len(judged) - cap / 10) <= 2
        left[cap] = {one.row for one in kept}
    assert left[19] < left[40] <= left[41] < left[80] < left[120] < left[199]
    assert over_cap(rows, params(rows_per_task=200)) == {}


def test_judgements_do_not_drive_the_other_rows_of_their_task_out():
    rows = mixed(yes=50, no=50, short=100)
    dropped = over_cap(rows, params(rows_per_task=20))
    kinds = [one.kind for one in rows if (one.source, one.row) not in dropped]
    assert (kinds.count("judgement"), kinds.count("short")) == (10, 10)


def test_the_stage_itself_applies_balance_and_cap(tmp_path):
    answers = ["Yes"] * 9 + ["No"] * 5
    judged = [
        row(number, kind="judgement", task="check", question=f"{number}?", answer=one) for number, one in enumerate(answers)
    ]
    named = [row(100 + number, question=f"{number}?") for number in range(9)]

    _, dropped = curated(tmp_path, [*judged, *named, *FILLERS], params(balance=True, rows_per_task=6))

    reasons = sorted(reason for _, reason in dropped.values())
    assert reasons == ["more_yes_than_no"] * 4 + ["rows_per_task"] * (4 + 3)


def test_a_smaller_dose_is_a_part_of_a_larger_one_and_keeps_the_mix_of_kinds(tmp_path):
    rows = [
        row(number, source="chats", kind=kind)
        for number, kind in enumerate(["conversation"] * 100 + ["reasoning"] * 50 + ["description"] * 50)
    ]
    order = drawn(rows, 17)
    for size in (4, 20, 77, 200):
        kinds = [one.kind for one in order[:size]]
        assert abs(kinds.count("conversation") - size / 2) <= 1
        assert abs(kinds.count("reasoning") - size / 4) <= 1
    outs = {}
    for dose in (20, 60):
        out, dropped = curated(tmp_path / str(dose), [row(999), FILLERS[0], *rows], params(), dose)
        outs[dose] = {one.row for one in out["align"]}
        assert len(outs[dose]) == dose
        assert set(dropped.values()) == {("not_in_dose", "dose")}
    assert outs[20] < outs[60]


def test_connect_takes_at_most_its_rows_and_fewer_are_a_part_of_more(tmp_path):
    rows = [row(number, source="captions", kind="caption") for number in range(30)]
    chosen = {}
    for most in (5, 10):
        out, dropped = curated(tmp_path / str(most), [row(999), FILLERS[1], *rows], params(rows=most))
        chosen[most] = {one.row for one in out["connect"]}
        assert set(dropped.values()) == {("over_cap", "connect_rows")}
    assert len(chosen[5]) == 5
    assert chosen[5] < chosen[10]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows = [row(number, kind="judgement", answer="Yes" if number % 3 else "No") for number in range(60)]
    for name in ("first", "second"):
        curated(tmp_path / name, [*rows, *FILLERS], params(held_out=0.2, rows_per_task=10))
    written = [path for path in (tmp_path / "first" / "curated").rglob("*") if path.is_file()]
    assert len(written) == 5
    for path in written:
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()


def test_a_source_that_was_not_ingested_is_an_error_that_lists_those_that_were(tmp_path):
    with pytest.raises(ValueError, match=r"curate\.align\.sources names 'chats', .* there are captions, tasks"):
        curated(tmp_path, [row(0), FILLERS[0]], params())


def test_a_source_in_two_stages_is_an_error():
    with pytest.raises(ValueError, match=r"align.sources and train.sources both name 'tasks'"):
        Params.model_validate({**params().model_dump(), "align": {"sources": ["tasks"]}})


@pytest.mark.parametrize(("section", "value"), [("held_out", 8.0), ("align", {"sources": ["chats"], "dose": 1})])
def test_a_number_that_makes_no_sense_is_refused(section, value):
    with pytest.raises(ValueError, match=section):
        Params.model_validate({**params().model_dump(), section: value})


@pytest.mark.parametrize("dose", [-3, 0, 1.5])
def test_a_dose_that_align_cannot_learn_from_is_refused_with_its_key(tmp_path, dose):
    with pytest.raises(ValueError, match=rf"align\.dose must be a whole number of rows, at least 1, got '{dose}'"):
        curated(tmp_path, [row(0), *FILLERS], params(), dose=dose)
