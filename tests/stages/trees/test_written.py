"""Processors that write more than image tokens: what is learnt is what they send, and ends its prefix with the picture."""

from pathlib import Path

import pytest

from bench import families
from stages.corpus.example import Turn
from stages.trees.certificate import Prover, prove
from stages.trees.chat import Chat, Tokens, Unproved

SIZE = (30, 20)
SINGLE = (Turn("user", "<image>What colour is it?"), Turn("assistant", "red"))
SEVERAL = (*SINGLE, Turn("user", "Is it round?"), Turn("assistant", "No."))
TWICE = (Turn("user", "<image><image>What colour is it?"), Turn("assistant", "red"))
BARE = (Turn("user", "Count."), Turn("assistant", "one two"))


def chat_of(name: str, tiny_model: Path) -> Chat:
    processor, _ = families.build(name, tiny_model)
    return Chat(processor, {processor.tokenizer.eos_token_id})


@pytest.fixture(scope="module")
def gemma3(tiny_model: Path) -> Chat:
    return chat_of("gemma3", tiny_model)


@pytest.fixture(scope="module")
def paligemma(tiny_model: Path) -> Chat:
    return chat_of("paligemma", tiny_model)


def said(chat: Chat, tokens: Tokens) -> str:
    text: str = chat.tokenizer.decode([id for id, wanted in zip(tokens.ids, tokens.supervised, strict=True) if wanted])
    return text


def test_gemma3s_picture_is_its_image_tokens_and_the_prefix_ends_with_the_last_of_them(gemma3):
    tokens = prove(gemma3, SINGLE, [SIZE])

    assert tokens.prefix[-16:] == (gemma3.image_id,) * 16
    assert gemma3.image_id not in tokens.own
    assert said(gemma3, tokens) == "red<end_of_turn>"


def test_line_feeds_of_gemma3s_template_and_processor_are_one_token(gemma3):
    prefix = gemma3.tokenizer.convert_ids_to_tokens(prove(gemma3, SINGLE, [SIZE]).prefix)

    assert prefix[-18:-16] == ["\n\n\n", "<start_of_image>"]


@pytest.mark.parametrize(("turns", "pictures"), [(SINGLE, 1), (SEVERAL, 1), (TWICE, 2), (BARE, 0)])
def test_gemma3s_conversations_are_proved_without_a_doubt(gemma3, turns, pictures):
    prover = Prover(gemma3)

    (tokens,) = prover([(turns, [SIZE] * pictures)])
    prover.confirm()

    assert isinstance(tokens, Tokens)
    assert tokens.ids.count(gemma3.image_id) == 16 * pictures


@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>"])
def test_words_that_gemma3_would_take_for_a_picture_are_refused(gemma3, token):
    turns = (Turn("user", f"<image>What is {token}?"), Turn("assistant", "red"))

    with pytest.raises(Unproved, match="image: the conversation has more image tokens than pictures"):
        prove(gemma3, turns, [SIZE])


def test_pictures_that_gemma3_would_cut_and_describe_are_refused_with_what_to_change(tiny_model):
    gemma3 = chat_of("gemma3", tiny_model)
    images = gemma3.processor.image_processor
    images.do_pan_and_scan, images.pan_and_scan_min_crop_size = True, 8
    images.pan_and_scan_max_num_crops, images.pan_and_scan_min_ratio_to_activate = 4, 1.2
    gemma3.processor.images_kwargs = {}

    with pytest.raises(Unproved, match=r"^image: .* into 5 pieces .* set do_pan_and_scan to false"):
        prove(gemma3, SINGLE, [(60, 15)])


@pytest.mark.parametrize(("turns", "pictures"), [(SINGLE, 1), (SEVERAL, 1), (TWICE, 2)])
def test_paligemmas_prompts_have_the_beginning_behind_the_picture_and_end_with_a_line_feed(paligemma, turns, pictures):
    prover = Prover(paligemma)

    (tokens,) = prover([(turns, [SIZE] * pictures)])
    prover.confirm()

    assert isinstance(tokens, Tokens)
    assert tokens.prefix == (paligemma.image_id,) * 4 * pictures
    text = paligemma.tokenizer.decode(tokens.own)
    assert text.startswith("<bos>What colour is it?\nred</s>")


def test_words_alone_are_refused_for_paligemma_whose_processor_takes_none(paligemma):
    with pytest.raises(Unproved, match="prompt: the processor refuses the prompt"):
        prove(paligemma, BARE, [])


def test_a_processor_that_writes_otherwise_than_is_known_is_found_out(tiny_model):
    chat = chat_of("gemma3", tiny_model)
    chat.written.around = chat.written.around.rstrip()

    with pytest.raises(Unproved, match="prompt: differs from what inference sends at token"):
        prove(chat, SINGLE, [SIZE])
