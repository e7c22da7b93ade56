from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.corpus.example import Turn
from stages.corpus.instructions import image_first
from stages.models.loading import load_processor
from stages.trees.certificate import Asked, check_end, prove, prove_all
from stages.trees.chat import Chat, Unproved

SIZE = (30, 20)
SINGLE = (Turn("user", "<image>What colour is it?"), Turn("assistant", "red"))
SEVERAL = (*SINGLE, Turn("user", "Is it round?"), Turn("assistant", "No, it is not."))


def chat_of(processor: Any) -> Chat:
    return Chat(processor, {processor.tokenizer.eos_token_id})


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> Chat:
    return chat_of(load_processor(tiny_model))


def supervised_text(chat, tokens):
    return chat.tokenizer.decode([id for id, wanted in zip(tokens.ids, tokens.supervised, strict=True) if wanted])


def test_only_the_answer_and_the_end_of_its_turn_are_supervised(chat):
    assert supervised_text(chat, prove(chat, SINGLE, [SIZE])) == "red</s>"


def test_every_answer_of_a_conversation_is_supervised(chat):
    assert supervised_text(chat, prove(chat, SEVERAL, [SIZE])) == "red</s>No, it is not.</s>"


def test_a_conversation_without_a_picture_is_proved_too(chat):
    turns = (Turn("user", "Count."), Turn("assistant", "one two"))
    tokens = prove(chat, turns, [])
    assert (supervised_text(chat, tokens), tokens.image_end) == ("one two</s>", 0)


def test_the_prefix_ends_with_the_last_image_token(chat):
    tokens = prove(chat, SINGLE, [SIZE])
    assert tokens.ids[: tokens.image_end].count(chat.image_id) == 4
    assert chat.image_id not in tokens.ids[tokens.image_end :]


def test_a_mark_for_which_there_is_no_picture_is_named(chat):
    with pytest.raises(Unproved, match="image: the conversation has more image tokens than pictures"):
        prove(chat, SINGLE, [])


def test_a_template_that_hides_the_prompt_is_refused(chat, tiny_model):
    odd = load_processor(tiny_model)
    odd.chat_template = odd.chat_template.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}Think. ")
    with pytest.raises(Unproved, match="template"):
        prove(chat_of(odd), SINGLE, [SIZE])


def test_a_template_that_changes_the_answer_is_refused(tiny_model):
    odd = load_processor(tiny_model)
    odd.chat_template = odd.chat_template.replace("{{ part['text'] }}", "{{ part['text'] | upper }}")
    with pytest.raises(Unproved, match="answer: supervised tokens decode to 'RED'"):
        prove(chat_of(odd), SINGLE, [SIZE])


def test_an_end_token_inside_an_answer_is_refused(chat):
    turns = (SINGLE[0], Turn("assistant", "red</s>blue"))
    with pytest.raises(Unproved, match="answer"):
        prove(chat, turns, [SIZE])


ENDING = "{% if message['role'] == 'assistant' %}</s>{% endif %}"
"""What the tiny model's template writes behind an answer."""


@pytest.mark.parametrize("behind", ["", " ", "<|user|>"], ids=["nothing", "a space", "a token nothing stops on"])
def test_a_template_that_does_not_end_its_answers_is_refused_for_a_row_and_for_the_whole_run(tiny_model, behind):
    odd = load_processor(tiny_model)
    assert ENDING in odd.chat_template
    odd.chat_template = odd.chat_template.replace(ENDING, ENDING.replace("</s>", behind))
    with pytest.raises(Unproved, match=r"end: answer 1 ends with '.+', on which generation does not stop"):
        prove(chat_of(odd), SINGLE, [SIZE])
    with pytest.raises(ValueError, match=r"in base no answer would end.* stops on '</s>' \(1\): .* in chat_template\.jinja"):
        check_end(chat_of(odd), Path("base"))


def test_a_template_mended_as_the_error_says_writes_what_the_whole_one_wrote(chat, tiny_model):
    mended = load_processor(tiny_model)
    mended.chat_template = mended.chat_template.replace(ENDING, ENDING.replace("</s>", "{{ eos_token }}"))
    check_end(chat_of(mended), tiny_model)
    assert prove(chat_of(mended), SEVERAL, [SIZE]) == prove(chat, SEVERAL, [SIZE])


def test_a_model_whose_files_name_no_end_is_refused_though_its_template_writes_one(tiny_model):
    with pytest.raises(ValueError, match=r"stops on no token at all: .* add the id of that one to eos_token_id"):
        check_end(Chat(load_processor(tiny_model), frozenset()), tiny_model)


def test_a_processor_that_emits_another_number_of_image_tokens_is_refused(chat, tiny_model):
    other = chat_of(load_processor(tiny_model))
    other.expansions[SIZE, 1] = (other.image_id,) * 3
    with pytest.raises(Unproved, match="image: 3 image tokens, the processor emits 4"):
        prove(other, SINGLE, [SIZE])


def test_a_processor_that_numbers_its_pictures_is_refused_where_they_are_several(tiny_model):
    other = chat_of(load_processor(tiny_model))
    other.processor.__class__ = type(
        "Numbers", (type(other.processor),), {"__call__": lambda *_, **given: {"input_ids": [[other.image_id] * 5]}}
    )
    with pytest.raises(Unproved, match="image: the processor gives 5 ids for 2 pictures of one size"):
        prove(other, (Turn("user", "<image><image>Alike?"), Turn("assistant", "No")), [SIZE] * 2)


def test_an_answer_of_several_paragraphs_is_learnt_to_the_letter(chat):
    answer = "Two reasons:\n\n  1. it is red\n\n  2. it is round"
    turns = image_first([Turn("user", "Why?\n<image>"), Turn("assistant", answer)], 1)

    assert supervised_text(chat, prove(chat, turns, [SIZE])) == answer + "</s>"


def test_prompts_of_one_picture_are_proved_alike_alone_and_together_even_if_the_processor_would_make_one_tensor(tiny_model):
    processor = load_processor(tiny_model)
    processor.__class__ = type("Pads", (type(processor),), {"text_kwargs": {"return_tensors": "pt"}})
    original = processor.apply_chat_template

    def pads(conversations, **given):
        given["processor_kwargs"] = {"padding": True, **given.get("processor_kwargs", {})}
        return original(conversations, **given)

    processor.apply_chat_template = pads
    chat = chat_of(processor)
    conversations = [SINGLE, (Turn("user", "<image>A much longer question than the other one?"), Turn("assistant", "yes"))]

    together = prove_all(chat, [(turns, [SIZE]) for turns in conversations])

    assert together == [prove(chat, turns, [SIZE]) for turns in conversations]


@pytest.fixture
def asked(tiny_model) -> tuple[Chat, list[int]]:
    """A chat whose processor notes how many pictures came with each prompt that it was asked for."""
    processor: Any = load_processor(tiny_model)
    original, asked = processor.apply_chat_template, []

    def notes(conversations, **given):
        if given.get("tokenize"):
            asked.extend(sum(part["type"] == "image" for turn in one for part in turn["content"]) for one in conversations)
        return original(conversations, **given)

    processor.apply_chat_template = notes
    return chat_of(processor), asked


def alike(rows: int, turns: int = 1) -> list[Asked]:
    """Conversations of the same form in other words."""
    return [
        (
            [
                Turn(role, ("<image>" if place + index == 0 else "") + f"{text} {row} {place}")
                for place in range(turns)
                for index, (role, text) in enumerate((("user", "What is"), ("assistant", "It is")))
            ],
            [SIZE],
        )
        for row in range(rows)
    ]


def test_the_processor_is_asked_about_few_of_many_rows_that_differ_in_their_words_alone(asked):
    chat, times = asked
    assert not [one for one in prove_all(chat, alike(300)) if isinstance(one, Unproved)]
    assert len(times) <= 4


def test_the_processor_is_asked_about_every_order_of_turns_and_special_tokens_and_about_the_longest_prompt(asked):
    chat, times = asked
    rows = [*alike(20), *alike(20, turns=3)]
    rows.append(((Turn("user", "<image>What does </s> mean?"), Turn("assistant", "The end.")), [SIZE]))
    rows.append(((Turn("user", "Count."), Turn("assistant", "one two")), []))
    rows.append(((Turn("user", "<image>Why? " * 50), Turn("assistant", "So.")), [SIZE] * 50))
    assert not [one for one in prove_all(chat, rows) if isinstance(one, Unproved)]
    # One, three, and five turns before an answer; the end in a question; no picture; fifty.
    assert {0, 1, 50} == set(times)
    assert len(times) >= 6


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text.strip() == text)


@given(question=WORDS, answer=WORDS)
@example(question="0", answer="<image>")
@example(question="0", answer="a <image> b")
def test_whatever_is_asked_and_answered_the_supervised_tokens_decode_to_the_answer_or_the_row_is_refused(
    chat, question, answer
):
    turns = image_first([Turn("user", "<image>\n" + question), Turn("assistant", answer)], 1)
    try:
        tokens = prove(chat, turns, [SIZE])
    except Unproved:
        assert any(mark in question + answer for mark in [*chat.tokenizer.all_special_tokens, "<image>", "<|"])
    else:
        assert supervised_text(chat, tokens) == answer + "</s>"
