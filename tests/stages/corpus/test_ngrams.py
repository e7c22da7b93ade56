import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus import example
from stages.corpus.example import Example, Turn
from stages.corpus.ngrams import grams, questions


def runs(texts, n):
    """The set of runs of each text."""
    found = grams(pl.Series(texts, dtype=pl.String), n)
    return [set(found.filter(text=number)["gram"]) for number in range(len(texts))]


def test_case_width_and_punctuation_do_not_matter():
    first, second = runs(["Is there a red car, left of it?", "is THERE:\n a ｒｅｄ  car left-of it"], 3)
    assert first == second
    assert len(first) == 6


def test_a_run_hangs_on_its_words_and_their_order():
    ((one,), (turned,), (other,)) = runs(["a b c", "b a c", "a b d"], 3)
    assert len({one, turned, other}) == 3


def test_no_run_goes_from_one_text_into_the_next():
    assert runs(["a b", "c d e", "", "f"], 3)[0] == set()
    assert [len(found) for found in runs(["a b", "c d e", "", "f"], 2)] == [1, 2, 0, 0]


def test_in_scripts_without_spaces_each_sign_is_a_word():
    found, part = runs(["图中有几只 cats?", "有几只"], 3)
    assert len(found) == 4, "five signs and a word"
    assert part < found


def test_names_are_the_same_on_every_machine():
    assert grams(pl.Series(["one two three"]), 3)["gram"].to_list() == [5190253612276634334]


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8).map(tuple)


@given(st.lists(words, max_size=6), st.integers(1, 4))
def test_two_texts_share_as_many_runs_as_their_words_say(texts, n):
    plain = [{text[at : at + n] for at in range(len(text) - n + 1)} for text in texts]
    found = runs([" ".join(text) for text in texts], n)
    for one, other in [(i, j) for i in range(len(texts)) for j in range(len(texts))]:
        assert len(found[one] & found[other]) == len(plain[one] & plain[other])


def test_every_question_of_a_conversation_counts_and_no_answer_does():
    turns = (Turn("user", "<image>\nWho?"), Turn("assistant", "A cat."), Turn("user", "Why?"), Turn("assistant", "Who knows."))
    rows = [Example("s", 5, "x", "t", "d", "conversation", "human", ("p",), turns, False)]
    table = example.table_of([*rows, *rows])
    assert questions(table.slice(1)).rows() == [("s", 5, " \nWho?"), ("s", 5, "Why?")]
