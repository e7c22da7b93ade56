"""Tokens as a reader sees them: all their text, in order, each with its mask."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stages.pages.masks import RUN, Piece, pieces


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<image>", "</s>"])
    return tokenizer


def text(found):
    return "".join(piece.text * piece.times for piece in found)


def test_supervised_pieces_spell_the_answer_and_the_others_the_prompt(tokenizer):
    prompt, answer = tokenizer.encode("Which digit? ").ids, tokenizer.encode("seven</s>").ids
    found = pieces(prompt + answer, [False] * len(prompt) + [True] * len(answer), tokenizer)
    assert text(piece for piece in found if not piece.supervised) == "Which digit? "
    assert text(piece for piece in found if piece.supervised) == "seven</s>"


def test_a_picture_of_many_tokens_is_one_piece_with_their_number(tokenizer):
    image = tokenizer.token_to_id("<image>")
    assert pieces([image] * 36, [False] * 36, tokenizer) == [Piece("<image>", False, 36, True)]
    assert len(pieces([image] * (RUN - 1), [False] * (RUN - 1), tokenizer)) == RUN - 1


def test_a_letter_cut_in_several_tokens_is_one_piece(tokenizer):
    ids = tokenizer.encode("a🙂").ids
    assert [piece.text for piece in pieces(ids, [True] * len(ids), tokenizer)] == ["a", "🙂"]


def test_the_space_between_prompt_and_answer_is_kept():
    words = ["▁Answer", ":", "▁Yes"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=":"))
    tokenizer.decoder = decoders.Metaspace()
    assert [piece.text for piece in pieces([0, 1, 2], [False, False, True], tokenizer)] == ["Answer", ":", " Yes"]


@settings(max_examples=60, deadline=None)
@given(words=st.text(max_size=12), data=st.data())
def test_no_text_is_lost_and_no_mask_moved(tokenizer, words, data):
    ids = tokenizer.encode(words).ids
    # Whole letters are supervised or not: a mask that cuts one has no text of its own.
    flags = [flag for letter in words for flag in [data.draw(st.booleans())] * len(letter.encode())]
    found = pieces(ids, flags, tokenizer)
    assert text(found) == words
    wanted = "".join(letter for letter, place in zip(words, _starts(words), strict=True) if flags[place])
    assert text(piece for piece in found if piece.supervised) == wanted


def _starts(words):
    place, found = 0, []
    for letter in words:
        found.append(place)
        place += len(letter.encode())
    return found
