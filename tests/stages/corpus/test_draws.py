import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import draws, example
from stages.corpus.example import Example, Turn
from stages.corpus.marks import gathered, look_at, rank


def row(number, *, source="tasks", picture=None, task="colour", kind="short", answer="red", domain="shapes"):
    images = (f"picture-{number}",) if picture is None else tuple(picture.split())
    turns = (Turn("user", f"<image>\n{number}?"), Turn("assistant", answer))
    return Example(source, number, str(number), task, domain, kind, "human", images, turns, False)


def marks(rows, seed=17, order=("tasks",)):
    return gathered([look_at(example.table_of(rows), seed, near=False)], order)


def everything(made):
    return np.arange(len(made))


def left(made, dropped):
    return sorted(set(made.row.tolist()) - set(made.row[dropped].tolist()))


# What the choices mean, one row at a time; `draws` makes the same ones on columns.


def drawn(made, rows):
    """All of `rows` in an order whose every beginning has the kinds in the proportions of the whole."""
    by_kind = defaultdict(list)
    for number in rows:
        by_kind[made.kind.of[number]].append((made.draw[number], made.source.of[number], made.row[number], number))
    spread = []
    for members in by_kind.values():
        spread += [((n + 0.5) / len(members), *member) for n, member in enumerate(sorted(members))]
    return [member[-1] for member in sorted(spread)]


def sides_of(rows, numbers):
    sides = {True: [], False: []}
    for number in numbers:
        sides[bool(re.match(r"\W*yes\b", rows[number].turns[1].text, re.IGNORECASE))].append(number)
    return sides


def over_cap(rows, made, cap, balanced):
    dropped = []
    for task in {one.task for one in rows}:
        members = [number for number, one in enumerate(rows) if one.task == task]
        order = drawn(made, members)
        surplus = order[cap:]
        if balanced and surplus:
            room = sum(rows[number].kind == "judgement" for number in order[:cap])
            sides = sides_of(rows, [number for number in members if rows[number].kind == "judgement"]).values()
            surplus = [number for number in surplus if rows[number].kind != "judgement"]
            surplus += [number for side in sides for number in drawn(made, side)[room // 2 :]]
        dropped += surplus
    return sorted(dropped)


def unbalanced(rows, made):
    dropped = {True: [], False: []}
    for task in {one.task for one in rows}:
        members = [number for number, one in enumerate(rows) if one.task == task and one.kind == "judgement"]
        sides = sides_of(rows, members)
        for answer, side in sides.items():
            dropped[answer] += drawn(made, side)[min(map(len, sides.values())) :]
    return sorted(dropped[True]), sorted(dropped[False])


@st.composite
def tables(draw):
    rows = []
    for number in range(draw(st.integers(0, 60))):
        kind = draw(st.sampled_from(["judgement", "short", "long"]))
        answer = draw(st.sampled_from(["Yes", "no", "'YES', it is", "No."])) if kind == "judgement" else "red"
        rows.append(row(number, task=f"task-{draw(st.integers(0, 3))}", kind=kind, answer=answer))
    return rows


@settings(deadline=None)
@given(tables(), st.integers(1, 30), st.booleans(), st.integers(0, 3))
def test_choices_on_columns_are_those_of_one_row_at_a_time(rows, number, balanced, seed):
    made = marks(rows, seed)
    rows = [next(one for one in rows if one.row == each) for each in made.row.tolist()]
    assert sorted(draws.beyond(made, everything(made), number).tolist()) == sorted(drawn(made, range(len(rows)))[number:])
    assert draws.over_cap(made, everything(made), number, balanced).tolist() == over_cap(rows, made, number, balanced)
    assert tuple(side.tolist() for side in draws.unbalanced(made, everything(made))) == unbalanced(rows, made)


@settings(deadline=None)
@given(tables(), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_a_smaller_number_is_a_part_of_a_larger_one(rows, fewer, more, balanced):
    fewer, more = sorted((fewer, fewer + more))
    made = marks(rows)
    if balanced:
        kept = np.setdiff1d(everything(made), np.concatenate(draws.unbalanced(made, everything(made))))
    else:
        kept = everything(made)
    for drop in (
        lambda number: draws.beyond(made, kept, number),
        lambda number: draws.over_cap(made, kept, number, balanced),
        lambda number: draws.over_quota(made, kept, made.task.of[kept], made.kind.of[kept], {0: number}),
    ):
        assert set(drop(more).tolist()) <= set(drop(fewer).tolist())
    tasks = [draws.chosen_tasks(made.task.known, number, 17) for number in (fewer, more)]
    assert set(tasks[0]) <= set(tasks[1])
    assert len(tasks[0]) == min(fewer, len(made.task.known))


def test_every_beginning_of_a_draw_keeps_the_mix_of_kinds():
    kinds = ["conversation"] * 100 + ["reasoning"] * 50 + ["description"] * 50
    rows = [row(number, kind=kind) for number, kind in enumerate(kinds)]
    made = marks(rows)
    for size in (4, 20, 77, 200):
        first = Counter(kinds[number] for number in left(made, draws.beyond(made, everything(made), size)))
        assert sum(first.values()) == size
        assert abs(first["conversation"] - size / 2) <= 1
        assert abs(first["reasoning"] - size / 4) <= 1


def test_yes_and_no_are_equally_many_in_every_judgement_task():
    rows = [
        row(number, kind="judgement", task=f"task-{number % 2}", answer="Yes" if number % 5 else "No.") for number in range(100)
    ]
    made = marks(rows)
    more_yes, more_no = draws.unbalanced(made, everything(made))
    assert not len(more_no)
    for task in ("task-0", "task-1"):
        answers = [rows[number].turns[1].text for number in left(made, more_yes) if rows[number].task == task]
        assert answers.count("Yes") == answers.count("No.") == 10
    alone = marks([row(0, answer="Yes")])
    assert [len(side) for side in draws.unbalanced(alone, everything(alone))] == [0, 0]


def test_the_cap_holds_per_task_and_keeps_the_balance():
    rows = [row(number, task="many") for number in range(30)]
    rows += [row(number, kind="judgement", task="asked", answer="Yes" if number % 2 else "No") for number in range(30, 70)]
    rows += [row(number, task="few") for number in range(70, 75)]
    made = marks(rows)
    kept = [rows[number] for number in left(made, draws.over_cap(made, everything(made), 11, balanced=True))]
    assert Counter(one.task for one in kept) == {"many": 11, "few": 5, "asked": 10}
    assert Counter(one.turns[1].text for one in kept if one.task == "asked") == {"Yes": 5, "No": 5}


def mixed(yes, no, short):
    """Rows of one task; the first is a judgement."""
    answers = ["Yes"] * yes + ["No"] * no
    judged = [row(number, kind="judgement", answer=answer) for number, answer in enumerate(answers)]
    return [*judged, *(row(len(judged) + number) for number in range(short))]


@pytest.mark.parametrize("turned", [False, True])
def test_a_task_that_mixes_kinds_fills_its_cap_with_each_kind_in_its_proportion(turned):
    rows = mixed(yes=10, no=10, short=180)
    made = marks(rows[:: -1 if turned else 1])
    chosen = {}
    for cap in (19, 40, 41, 80, 120, 199):
        kept = left(made, draws.over_cap(made, everything(made), cap, balanced=True))
        judged = [rows[number].turns[1].text for number in kept if rows[number].kind == "judgement"]
        assert judged.count("Yes") == judged.count("No"), "short rows are of no side"
        assert cap - 1 <= len(kept) <= cap
        assert abs(len(judged) - cap / 10) <= 2
        chosen[cap] = set(kept)
    assert chosen[19] < chosen[40] <= chosen[41] < chosen[80] < chosen[120] < chosen[199]
    assert not len(draws.over_cap(made, everything(made), 200, balanced=True))


def test_judgements_do_not_drive_the_other_rows_of_their_task_out():
    rows = mixed(yes=50, no=50, short=100)
    made = marks(rows)
    kinds = Counter(rows[number].kind for number in left(made, draws.over_cap(made, everything(made), 20, balanced=True)))
    assert kinds == {"judgement": 10, "short": 10}


def held(rows, share=0.1, seed=17, alike=None, sources=("tasks",)):
    """The names of the pictures held out; `alike` says of some pictures which other they show."""
    made = marks(rows, seed)
    names = made.sha256.to_pylist()
    twin = np.array([names.index((alike or {}).get(name, name)) for name in names], dtype=np.int64)
    return {names[number] for number in np.flatnonzero(draws.held_out_pictures(made, sources, share, twin))}


def test_a_picture_is_held_out_by_its_own_rank():
    few, many = [[row(number) for number in range(count)] for count in (200, 2000)]
    assert held(many) == {name for name in (f"picture-{n}" for n in range(2000)) if rank(17, "split", name) < 0.1}
    assert held(few) == held(many) & {picture for one in few for picture in one.images}
    assert 140 <= len(held(many)) <= 260
    assert held(many, seed=18) != held(many)
    assert held(many) <= held(many, share=0.2)
    assert held(few, share=0.0) == held([row(1, source="chats")], share=0.99) == held([]) == set()


def test_a_row_of_two_pictures_takes_both_to_the_same_side():
    chain = [row(number, picture=f"{number} {number + 1}") for number in range(50)]
    assert held(chain, 0.001) == set()
    assert held(chain, 0.05) == held(chain[::-1], 0.05) == {str(number) for number in range(51)}


def test_pictures_that_show_the_same_lie_on_the_same_side():
    rows = [row(number) for number in range(100)]
    alike = {f"picture-{number}": f"picture-{number + 1}" for number in range(0, 100, 2)}
    pairs = {frozenset(pair) for pair in alike.items()}
    kept = held(rows, alike=alike)
    assert all(len(pair & kept) != 1 for pair in pairs)
    assert held(rows) < kept < {f"picture-{number}" for number in range(100)}


@st.composite
def shown(draw):
    """Rows of one or two of few pictures each, and which of the pictures show what another shows."""
    picture = st.integers(0, 25).map(str)
    rows = [
        row(number, picture=" ".join(draw(st.lists(picture, max_size=2))), source=draw(st.sampled_from(["tasks", "chats"])))
        for number in range(draw(st.integers(0, 30)))
    ]
    met = {name for one in rows for name in one.images}
    return rows, {
        name: twin for name, twin in draw(st.dictionaries(picture, picture, max_size=6)).items() if {name, twin} <= met
    }


@settings(deadline=None)
@given(shown(), st.integers(0, 30), st.floats(0, 0.9))
def test_rows_that_are_added_bring_no_picture_back_from_the_test(table, count, share):
    rows, alike = table
    fewer = {name for one in rows[:count] for name in one.images}
    before = held(rows[:count], share, alike={name: twin for name, twin in alike.items() if {name, twin} <= fewer})
    assert before <= held(rows, share, alike=alike)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_components_are_what_edges_join(edges):
    groups = {node: {node} for node in range(31)}
    for left, right in edges:
        union = groups[left] | groups[right]
        groups |= dict.fromkeys(union, union)
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    assert draws.components(31, ends[:, 0], ends[:, 1]).tolist() == [min(groups[node]) for node in range(31)]
