from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from stages.corpus.example import Turn
from stages.corpus.instructions import image_first
from stages.models.loading import load_processor
from stages.trees import chat as chat_module
from stages.trees.certificate import check_end, prove, prove_all
from stages.trees.chat import Chat, Unproved

PICTURE = Image.new("RGB", (30, 20))
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
    assert supervised_text(chat, prove(chat, SINGLE, [PICTURE])) == "red</s>"


def test_every_answer_of_a_conversation_is_supervised(chat):
    assert supervised_text(chat, prove(chat, SEVERAL, [PICTURE])) == "red</s>No, it is not.</s>"


def test_a_conversation_without_a_picture_is_proved_too(chat):
    turns = (Turn("user", "Count."), Turn("assistant", "one two"))
    tokens = prove(chat, turns, [])
    assert (supervised_text(chat, tokens), tokens.image_end) == ("one two</s>", 0)


def test_the_prefix_ends_with_the_last_image_token(chat):
    tokens = prove(chat, SINGLE, [PICTURE])
    assert tokens.ids[: tokens.image_end].count(chat.image_id) == 4
    assert chat.image_id not in tokens.ids[tokens.image_end :]


def test_a_mark_for_which_there_is_no_picture_is_named(chat):
    with pytest.raises(Unproved, match="image: the conversation has more image tokens than pictures"):
        chat.tokens(SINGLE, [])


def test_a_template_that_hides_the_prompt_is_refused(chat, tiny_model):
    odd = load_processor(tiny_model)
    odd.chat_template = odd.chat_template.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}Think. ")
    with pytest.raises(Unproved, match="template"):
        prove(chat_of(odd), SINGLE, [PICTURE])


def test_a_template_that_changes_the_answer_is_refused(tiny_model):
    odd = load_processor(tiny_model)
    odd.chat_template = odd.chat_template.replace("{{ part['text'] }}", "{{ part['text'] | upper }}")
    with pytest.raises(Unproved, match="answer: supervised tokens decode to 'RED'"):
        prove(chat_of(odd), SINGLE, [PICTURE])


def test_an_end_token_inside_an_answer_is_refused(chat):
    turns = (SINGLE[0], Turn("assistant", "red</s>blue"))
    with pytest.raises(Unproved, match="answer"):
        prove(chat, turns, [PICTURE])


ENDING = "{% if message['role'] == 'assistant' %}</s>{% endif %}"
"""What the tiny model's template writes behind an answer."""


@pytest.mark.parametrize("behind", ["", " ", "<|user|>"], ids=["nothing", "a space", "a token nothing stops on"])
def test_a_template_that_does_not_end_its_answers_is_refused_for_a_row_and_for_the_whole_run(tiny_model, behind):
    odd = load_processor(tiny_model)
    assert ENDING in odd.chat_template
    odd.chat_template = odd.chat_template.replace(ENDING, ENDING.replace("</s>", behind))
    with pytest.raises(Unproved, match=r"end: answer 1 ends with '.+', on which generation does not stop"):
        prove(chat_of(odd), SINGLE, [PICTURE])
    with pytest.raises(ValueError, match=r"in base no answer would end.* stops on '</s>' \(1\): .* in chat_template\.jinja"):
        check_end(chat_of(odd), Path("base"))


def test_a_template_mended_as_the_error_says_writes_what_the_whole_one_wrote(chat, tiny_model):
    mended = load_processor(tiny_model)
    mended.chat_template = mended.chat_template.replace(ENDING, ENDING.replace("</s>", "{{ eos_token }}"))
    check_end(chat_of(mended), tiny_model)
    assert prove(chat_of(mended), SEVERAL, [PICTURE]) == prove(chat, SEVERAL, [PICTURE])


def test_a_model_whose_files_name_no_end_is_refused_though_its_template_writes_one(tiny_model):
    with pytest.raises(ValueError, match=r"stops on no token at all: .* add the id of that one to eos_token_id"):
        check_end(Chat(load_processor(tiny_model), frozenset()), tiny_model)


def test_a_processor_that_emits_another_number_of_image_tokens_is_refused(chat, tiny_model):
    other = chat_of(load_processor(tiny_model))
    other.expansions[PICTURE.size, 1] = [other.image_id] * 3
    with pytest.raises(Unproved, match="image: 3 image tokens, the processor emits 4"):
        prove(other, SINGLE, [PICTURE])


def test_a_processor_that_numbers_its_pictures_is_refused_where_they_are_several(tiny_model):
    other = chat_of(load_processor(tiny_model))
    other.processor.__class__ = type(
        "Numbers", (type(other.processor),), {"__call__": lambda *_, **given: {"input_ids": [[other.image_id] * 5]}}
    )
    with pytest.raises(Unproved, match="image: the processor gives 5 ids for 2 pictures of one size"):
        other.tokens((Turn("user", "<image><image>Alike?"), Turn("assistant", "No")), [PICTURE.size] * 2)


def test_an_answer_of_several_paragraphs_is_learnt_to_the_letter(chat):
    answer = "Two reasons:\n\n  1. it is red\n\n  2. it is round"
    turns = image_first([Turn("user", "Why?\n<image>"), Turn("assistant", answer)], 1)

    assert supervised_text(chat, prove(chat, turns, [PICTURE])) == answer + "</s>"


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

    together = prove_all(chat, conversations, [PICTURE])

    assert together == [prove(chat, turns, [PICTURE]) for turns in conversations]


def test_the_processor_is_asked_once_for_the_same_words_and_sizes_and_again_for_another_size(tiny_model):
    processor = load_processor(tiny_model)
    original, asked = processor.apply_chat_template, []

    def counts(conversations, **given):
        if given.get("tokenize"):
            asked.append(len(conversations))
        return original(conversations, **given)

    processor.apply_chat_template = counts
    chat = chat_of(processor)

    one = prove(chat, SINGLE, [PICTURE])
    other = prove_all(chat, [SINGLE, SINGLE], [Image.new("RGB", PICTURE.size, "red")])
    prove(chat, SINGLE, [Image.new("RGB", (PICTURE.width * 2, PICTURE.height))])

    assert other == [one, one]
    assert asked == [1, 1]


def test_of_however_many_prompts_no_more_ids_are_remembered_than_there_is_room_for(tiny_model, monkeypatch):
    chat, roomy = chat_of(load_processor(tiny_model)), chat_of(load_processor(tiny_model))
    asked = [(Turn("user", f"<image>What is {number}?"), Turn("assistant", "red")) for number in range(12)]
    wanted = [prove(roomy, turns, [PICTURE]) for turns in asked]
    one = roomy.remembered // len(asked)
    monkeypatch.setattr(chat_module, "REMEMBERED_IDS", 4 * one)
    kept = []

    for turns, tokens in zip(asked, wanted, strict=True):
        assert prove(chat, turns, [PICTURE]) == tokens
        kept.append(sum(len(ids) for ids in chat.official.values()))

    assert max(kept) <= 4 * one
    assert kept[1] > one, "as long as there is room all are kept"
    assert chat.remembered == kept[-1] > 0
    assert prove_all(chat, asked, [PICTURE]) == wanted, "more at once than there is room for"
    assert chat.remembered == 0


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text.strip() == text)


@given(question=WORDS, answer=WORDS)
@example(question="0", answer="<image>")
@example(question="0", answer="a <image> b")
def test_whatever_is_asked_and_answered_the_supervised_tokens_decode_to_the_answer_or_the_row_is_refused(
    chat, question, answer
):
    turns = image_first([Turn("user", "<image>\n" + question), Turn("assistant", answer)], 1)
    try:
        tokens = prove(chat, turns, [PICTURE])
    except Unproved:
        assert any(mark in question + answer for mark in [*chat.tokenizer.all_special_tokens, "<image>", "<|"])
    else:
        assert supervised_text(chat, tokens) == answer + "</s>"
