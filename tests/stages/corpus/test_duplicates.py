import numpy as np

from stages.corpus import duplicates, example
from stages.corpus.example import Example, Turn
from stages.corpus.marks import gathered, look_at


def row(number, pictures, *, source="a", question="What is it?", answer="red"):
    turns = (Turn("user", question), Turn("assistant", answer))
    return Example(source, number, str(number), "t", "d", "short", "human", tuple(pictures.split()), turns, False)


def marks(*rows):
    return gathered([look_at(example.table_of(rows), 17, near=True)], ["a", "b"])


def near(made, alike=None, hashes=None):
    """`alike`: what a picture shows, if not its own; `hashes`: its hash, 0 unless given."""
    names = made.sha256.to_pylist()
    content = np.array([names.index((alike or {}).get(name, name)) for name in names])
    phash = np.array([(hashes or {}).get(name, 0) for name in names], dtype=np.uint64)
    copies = duplicates.near(made, np.arange(len(made)), content, phash)
    return duplicates.reasons(made, copies, loosely=True).to_pylist(), copies.rows.tolist()


def test_the_first_of_equal_rows_is_kept_whatever_the_order_they_came_in():
    made = marks(row(7, "p", source="b"), row(9, "p"), row(3, "p"), row(4, "q"))
    copies = duplicates.exact(made, np.arange(len(made)))
    assert duplicates.reasons(made, copies, loosely=False).to_pylist() == ["exact: a:3"] * 2
    assert made.named(copies.rows).to_pylist() == ["a:9", "b:7"]
    assert duplicates.exact(made, np.array([2, 3])).rows.tolist() == [3], "of the rows that are asked about"


def test_near_rows_are_told_with_the_distance_of_their_pictures():
    made = marks(row(0, "p"), row(1, "q", question="what is it"), row(2, "r"))
    assert near(made, {"q": "p"}, {"p": 0b1, "q": 0b111}) == (["near: a:0 (distance 2)"], [1])
    assert near(made) == ([], [])


def test_several_pictures_must_be_alike_each_in_its_place():
    made = marks(row(0, "p q"), row(1, "p q", question="what is it"), row(2, "q p"), row(3, "p"), row(4, "p q q"))
    assert near(made) == (["near: a:0 (distance 0)"], [1])
    twins = marks(row(0, "p q"), row(1, "x y"), row(2, "y x"))
    assert near(twins, {"x": "p", "y": "q"}, {"x": 0b1, "y": 0b11}) == (["near: a:0 (distance 2)"], [1])


def test_rows_without_pictures_are_near_if_they_read_alike():
    made = marks(row(0, "", question="One, two?"), row(1, "", question="one two"), row(2, "", question="two one"))
    assert near(made) == (["near: a:0 (distance 0)"], [1])
