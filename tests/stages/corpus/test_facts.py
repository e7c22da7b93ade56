import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus import example
from stages.corpus.boxes import BRACKETS, parsed
from stages.corpus.example import Example, Turn
from stages.corpus.facts import facts_of_pictures, facts_of_texts, hashed, refused, repeated


def row(*texts, kind="short", roles="uauaua", task="t", **more):
    names = {"u": "user", "a": "assistant"}
    turns = tuple(Turn(names.get(role, role), text) for role, text in zip(roles, texts, strict=False))
    fields = {"domain": "", "origin": "human", "images": (), "templated": False, **more}
    return Example("s", 0, "0", task, kind=kind, turns=turns, **fields)


def told(name, *rows, placeholders=("The message is empty",)):
    return facts_of_texts(example.table_of(rows), placeholders)[name].to_list()


def choice(question, answer):
    rows = [row(question, kind="choice", roles="u")] if answer is None else [row(question, answer, kind="choice")]
    return told("choices_without_option", *rows)[0]


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("Which?\nOptions: (a) red (b) dark blue\n<image>", "(b)  Dark Blue.", 0),
        ("<image>\nWhich?\nOptions: previous next", "next", 0),
        ("<image>\nWhich?\nOptions: previous next", "before", 1),
        ("<image>\nOptions are: day, night.", "dusk", None),
        ("<image>\nOptions: day, night.", None, None),
        ("Which?\noptions: (a) red (b) blue", "B", 0),
        ("Which?\nOptions: (a) red (b) blue", "(d)", 1),
        ("Which?\nOptions: (a) red (b) blue", "D", 1),
        ("Which?\nOptions: (a) red (b) blue", "B. blue", 0),
        ("Which?\nOptions: (a) red (b) blue", "B. green", 1),
        ("Which?\nOptions: d e f", "d", 0),
        ("Which?\nA. red\nB. blue", "A", 0),
        ("Which?\nA. red\nB. blue", "(c)", 1),
        ("Which?\nA. red\nB. blue", "blue", None),
        ("哪个?\nA、红\nB、蓝", "C", 1),
        ("Which letter is it?", "C", None),
    ],
)
def test_a_choice_is_an_option_or_the_letter_of_one(question, answer, wrong):
    assert choice(question, answer) == wrong


def test_only_the_first_answer_of_a_choice_is_one():
    question = "Which?\nOptions: (a) red (b) blue"
    assert told("choices_without_option", row(question, "(a) red", "Why?", "It glows.", kind="choice")) == [0]


@pytest.mark.parametrize(
    ("answer", "unclear", "yes"),
    [
        ("Yes", 0, 1), ("no.", 0, 0), (" “Yes, it is.”", 0, 1), ("Yesterday", 1, None), ("Nothing", 1, None), ("", 1, None),
        ("是", 0, 1), ("否。", 0, 0), ("对", 0, 1), ("错", 0, 0), ("正确", 0, 1), ("不正确", 0, 0), ("有两只猫", 0, 1),
        ("没有", 0, 0), ("不知道", 1, None), ("无法判断", 1, None), ("有可能", 1, None), ("图中有猫", 1, None),
    ],
)  # fmt: skip
def test_a_judgement_agrees_or_denies_in_english_or_chinese(answer, unclear, yes):
    rows = [row("Is it?", answer, kind="judgement"), row("Is it?", answer)]
    assert told("unclear_judgements", *rows) == [unclear, None]
    assert told("says_yes", *rows) == [yes, None]


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        ("the man at [0.1, 0.2, 0.3, 0.4] and [0,0,1,1]", 0),
        ("nobody", None),
        ("[someone]", None),
        ("[0.1, 0.4, 0.3, 0.2]", 1),
        ("[0.3, 0.2, 0.1, 0.4] [0, 0, 2, 1]", 2),
        ("[0.1, 0.2, 0.3]", 1),
        ("[0.1, 0.2, 0.3, 0.4.5]", 1),
        ("[-0.1, 0.2, 0.3, 0.4]", 1),
        ("[+.1, 1e-1, 1., 1E0]", 0),
        ("[0, 0, 1, 1e999]", 1),
        ("[\n0, 0,\n1, 1]", 0),
    ],
)
def test_boxes_are_four_numbers_inside_the_picture(text, outside):
    assert told("boxes_outside", row("Where?", text, kind="referring"), row("Where?", text)) == [outside, None]


NUMBERS = st.one_of(
    st.floats(-2, 2).map(str),
    st.sampled_from(
        ["0", "1", "1.", ".5", "+1", "-0", "1e-3", "1e3", "1e400", "0.5.5", "nan", "inf", "", "x", "٣", "0x1", "1_0"]
    ),
)
BRACKETED = st.lists(NUMBERS, min_size=1, max_size=5).map(lambda numbers: f"[{', '.join(numbers)}]")


@given(st.lists(st.one_of(BRACKETED, st.text("[],.019 a\n", max_size=12)), max_size=5).map(" ".join))
def test_a_box_is_what_the_other_stages_read_as_one(text):
    boxes = [parsed(inside) for inside in BRACKETS.findall(text)]
    bad = sum(box is None or not (box.within and box.ordered) for box in boxes)
    assert told("boxes_outside", row("Where?", text, kind="referring")) == [bad if boxes else None]


def test_an_answer_that_only_says_that_there_is_none_says_nothing():
    answers = ["the MESSAGE is  empty!", "'The message is empty.'", "Yes, the message is empty", "", "message"]
    assert told("placeholder_answers", *(row("?", answer) for answer in answers)) == [1, 1, 0, 0, 0]
    assert told("placeholder_answers", row("The message is empty", "So it is.")) == [0], "a question may say so"


def test_lengths_are_those_of_the_longest_turn_and_sums_those_of_all():
    talk = row("one two", "three", "four", "five  six\nseven")
    names = ["longest_answer_words", "longest_answer_characters", "longest_question_characters", "answer_words", "words"]
    assert [told(name, talk)[0] for name in names] == [3, 15, 7, 4, 7]


def test_a_row_without_turns_has_no_known_role_and_nothing_else():
    table = facts_of_texts(example.table_of([row(), row("Hi", "Ho")]), [])
    silent = {name for name, value in table.row(0, named=True).items() if value}
    assert silent == {"unknown_roles", "first_not_user", "last_not_assistant", "task_characters"}
    assert table.null_count().select(pl.sum_horizontal(pl.all())).item() == 2 * 4, "of choices, judgements, Yes and boxes"


def test_two_shards_tell_what_one_table_of_both_tells():
    rows = [row("Hi", "Ho"), row("Is it?", "Yes", kind="judgement"), row(), row("Where?", "[0, 0, 1, 2]", kind="referring")]
    table = example.table_of(rows)
    apart = [facts_of_texts(part, []) for part in (table.slice(0, 2), table.slice(2))]
    assert pl.concat(apart).equals(facts_of_texts(table, []))


LOOKS = pl.DataFrame(
    {"sha256": ["whole", "cut", "bomb"], "width": [30, None, 9000], "height": [20, None, 10], "whole": [True, False, None]}
)


def test_of_a_rows_pictures_the_worst_is_told():
    images = pa.chunked_array([pa.array([[], ["whole"], ["whole", "cut"], ["bomb"], ["bomb", "whole"], ["cut"]])])
    assert facts_of_pictures(images, LOOKS).rows() == [
        (None, None, None), (0, 20, 30), (1, 20, 30), (None, 10, 9000), (0, 10, 9000), (1, None, None),
    ]  # fmt: skip


def test_a_picture_that_is_in_no_store_is_our_own_mistake():
    with pytest.raises(AssertionError, match="1 pictures are in no store, such as gone"):
        facts_of_pictures(pa.chunked_array([pa.array([["whole", "gone"]])]), LOOKS)


def test_an_id_was_there_before_in_this_shard_or_an_earlier_one():
    shards = [hashed(pa.chunked_array([pa.array(ids)])) for ids in (["a", "b", "a"], ["", "c", ""], ["b", "d"])]
    assert [one.to_list() for one in repeated(shards)] == [[0, 0, 1], [None, 0, None], [1, 0]]
    assert repeated([]) == []


def test_what_is_not_allowed_is_refused_and_null_allows_all():
    said = pl.Series(["en", "zh", "", None])
    assert refused(said, ["en"]).to_list() == [0, 1, 1, 1]
    assert refused(said, ["en", "undeclared"]).to_list() == [0, 1, 0, 0]
    assert refused(said, None).to_list() == [None] * 4
