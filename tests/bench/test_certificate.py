"""What the bench of the certificate times is what it says."""

from bench import certificate as bench
from stages.models.loading import load_processor
from stages.trees.chat import Chat


def test_rows_have_the_questions_and_about_the_words_of_their_shape_and_no_two_are_alike():
    words = [f"w{number}" for number in range(500)]
    for shape, (questions, of_question, of_answer) in bench.SHAPES.items():
        rows = bench.rows(words, shape, 60)
        assert {len(turns) for turns, _ in rows} == {2 * questions}
        assert len({turns[0].text for turns, _ in rows}) == 60
        asked = [len(turns[0].text.split()) for turns, _ in rows]
        answered = [len(turns[1].text.split()) for turns, _ in rows]
        assert abs(sum(asked) / 60 - of_question) < of_question / 4
        assert abs(sum(answered) / 60 - of_answer) < of_answer / 4


def test_both_ways_are_timed_on_rows_that_are_proved(tiny_model):
    processor = load_processor(tiny_model)
    figures = bench.timed(
        Chat(processor, {processor.tokenizer.eos_token_id}), bench.rows(["red", "is", "it"], "one question", 40), 1
    )
    assert figures["picture_tokens_a_row"] == 5
    assert 0 < figures["ms_a_row"] < figures["ms_a_row_if_the_processor_is_asked_about_each"]


def test_the_tokenizer_in_the_form_of_llamas_writes_what_it_reads_and_begins_each_text():
    made = bench.learnt(["What colour is it?", "It is red."] * 9, 300)
    ids = made.encode("It is red, über-red.").ids
    assert ids[0] == made.token_to_id("<s>")
    assert made.decode(ids[1:]) == "It is red, über-red."
