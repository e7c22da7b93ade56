import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import example
from stages.corpus.example import Example, Turn
from stages.corpus.marks import PICTURES, SCHEMA, gathered, look_at, rank


def row(number, *, source="a", picture="p", task="t", question="What?", answer="red", kind="short", templated=False):
    turns = (Turn("user", question), Turn("assistant", answer))
    return Example(source, number, str(number), task, "d", kind, "human", tuple(picture.split()), turns, templated)


def marks(*rows, near=True):
    return gathered([look_at(example.table_of(rows), 17, near)], ["a"])


def said_alike(one, other):
    made = marks(*(row(number, question=text) for number, text in enumerate((one, other))))
    return np.array_equal(made.said[0], made.said[1])


def digest(row):
    """What a row teaches, written down plainly."""
    parts = ["task", row.task] if row.templated else []
    parts += ["images", *row.images]
    for turn in row.turns:
        parts += [turn.role, turn.text]
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


ROWS = st.builds(
    Example,
    source=st.sampled_from(["a", "b"]),
    row=st.integers(0, 2**40),
    id=st.just("x"),
    task=st.text(max_size=3),
    domain=st.text(max_size=2),
    kind=st.sampled_from(["short", "judgement"]),
    origin=st.just("human"),
    images=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    turns=st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(max_size=8)), max_size=4).map(tuple),
    templated=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(ROWS, max_size=8, unique_by=lambda one: (one.source, one.row)), st.integers(1, 8))
def test_marks_are_those_of_each_row_however_the_rows_are_cut(rows, cut):
    shards = [look_at(example.table_of(rows[first : first + cut]), 17, near=True) for first in range(0, len(rows), cut)]
    assert all((one.schema, other.schema) == (SCHEMA, PICTURES) for one, other in shards)
    made = gathered(shards, ["b"])
    rows = sorted(rows, key=lambda one: (one.source != "b", one.row))
    contents = [digest(one) for one in rows]
    assert [f"{high:016x}{low:016x}" for high, low in made.content.tolist()] == [content[:32] for content in contents]
    assert made.draw.tolist() == [rank(17, "draw", content) for content in contents]
    assert [made.source.known[place] for place in made.source.of] == [one.source for one in rows]
    assert [made.task.known[place] for place in made.task.of] == [one.task for one in rows]
    names = made.sha256.to_pylist()
    assert names == sorted({name for one in rows for name in one.images})
    assert made.split.tolist() == [rank(17, "split", name) for name in names]
    shown = [made.pictures[first:end] for first, end in zip(made.starts[:-1], made.starts[1:], strict=True)]
    assert [tuple(names[place] for place in pictures) for pictures in shown] == [one.images for one in rows]


def test_a_table_cut_out_of_another_has_the_marks_of_its_own_rows():
    table = example.table_of([row(number, picture=f"{number} x", question=f"{number}?") for number in range(5)])
    cut, copied = (
        look_at(table.slice(2, 2), 17, near=True),
        look_at(pa.table(table.slice(2, 2).to_pydict(), table.schema), 17, True),
    )
    assert [part.to_pydict() for part in cut] == [part.to_pydict() for part in copied]


def contents(*rows):
    return [tuple(pair) for pair in marks(*rows).content.tolist()]


def test_bare_input_of_another_task_is_no_duplicate_but_a_whole_question_is():
    bare = contents(row(0, templated=True), row(1, templated=True, task="shape"))
    assert bare[0] != bare[1]
    whole = contents(row(0), row(1, task="shape"))
    assert whole[0] == whole[1]


def test_a_row_whose_texts_run_together_alike_is_another_row():
    first, second = contents(row(0, question="Is", answer="itred"), row(1, question="Isit", answer="red"))
    assert first != second


def test_texts_are_alike_but_for_case_punctuation_space_and_the_place_of_the_picture():
    assert said_alike("<image>\nWhat, pray, is THIS?", "what pray  is this <image>")
    assert said_alike("ﬁne １２", "fine 12"), "ligatures and wide digits"
    assert said_alike("这是什么？", "这是什么")


def test_numbers_signs_and_symbols_tell_texts_apart():
    for one, other in [("3.5", "35"), ("-5", "5"), ("2 + 2", "2 2"), ("1:30", "130"), ("a < b", "a > b"), ("x y", "xy")]:
        assert not said_alike(one, other), (one, other)


def test_only_a_judgement_has_a_side():
    answers = ["Yes, it is.", "no", "'yes'", "Yesterday", "YES"]
    made = marks(*(row(number, kind="judgement", answer=answer) for number, answer in enumerate(answers)), row(9, answer="Yes"))
    assert made.side.tolist() == [1, 0, 1, 0, 1, -1]


def test_no_text_is_compared_loosely_unless_asked():
    assert not marks(row(0), near=False).said.any()


def test_no_rows_have_no_marks():
    for shards in ([], [look_at(example.table_of([]), 17, near=True)]):
        made = gathered(shards, ["a"])
        assert (len(made), len(made.pictures), len(made.sha256), made.source.known) == (0, 0, 0, ())
