"""The certificate: a conversation's tokens are proved, row by row, to be what inference sends and what the answer says."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from stages.corpus.example import IMAGE, Turn
from stages.trees.chat import Chat, Tokens, Unproved

CHECKS = {
    "template": "each prompt is a prefix of the conversation, so that what is learnt is what will be asked",
    "answer": "the supervised tokens decode to exactly the answers, but for white space that the template puts around them",
    "end": "the last supervised token of each answer is one on which generation stops",
    "image": "there are as many image tokens as the processor emits for these pictures",
    "prompt": "each prompt equals apply_chat_template(..., add_generation_prompt=True), token for token",
}


TRIED = (Turn("user", f"{IMAGE}What is it?"), Turn("assistant", "A cat."))


def check_end(chat: Chat, model: Path) -> None:
    """Find before any row is rendered that the template of the model in the folder `model` would end none of them.

    Raises:
        ValueError: it writes an answer without a token behind it on which generation stops.
    """
    try:
        chat.tokens(TRIED, [(64, 64)])
    except Unproved as fault:
        # Whatever else is wrong may be wrong with this conversation alone; each row will tell.
        if fault.check != "end":
            return
        stops = ", ".join(f"{chat.tokenizer.convert_ids_to_tokens(id)!r} ({id})" for id in sorted(chat.stops))
        raise ValueError(
            f"with the chat template of the base model in {model} no answer would end, and a model tuned so never learns to "
            f"stop: {fault}. Generation stops on {stops or 'no token at all'}: eos_token_id of generation_config.json. In a "
            "folder of your own with the model's files, write {{ eos_token }} right behind the assistant's text in "
            "chat_template.jinja, and remove chat_template.json, which would be read instead; or, where the template ends its "
            "turns with another token, add the id of that one to eos_token_id in generation_config.json. Then name the folder "
            "as base.model in params.yaml"
        ) from None


def prove(chat: Chat, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Tokens:
    """The tokens of a conversation, proved.

    Raises:
        Unproved: with the name of the check that failed, a key of `CHECKS`.
    """
    (tokens,) = prove_all(chat, [turns], pictures)
    if isinstance(tokens, Unproved):
        raise tokens
    return tokens


def prove_all(chat: Chat, conversations: Sequence[Sequence[Turn]], pictures: Sequence[Image.Image]) -> list[Tokens | Unproved]:
    """For each of the `conversations` about the same pictures its tokens, proved, or the check that it failed."""
    read = [_read(chat, turns, pictures) for turns in conversations]
    asked = [
        turns[:index]
        for turns, tokens in zip(conversations, read, strict=True)
        if isinstance(tokens, Tokens)
        for index, turn in enumerate(turns)
        if turn.role == "assistant"
    ]
    official = iter(chat.official_prompts(asked, pictures))
    return [_compared(chat, tokens, official) if isinstance(tokens, Tokens) else tokens for tokens in read]


def _read(chat: Chat, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Tokens | Unproved:
    try:
        return chat.tokens(turns, [picture.size for picture in pictures])
    except Unproved as fault:
        return fault


def _compared(chat: Chat, tokens: Tokens, official: Iterator[Sequence[int]]) -> Tokens | Unproved:
    """`tokens` if each of its prompts equals the next of `official`; all of its prompts are taken, whatever comes out."""
    pairs = [(prompt, next(official)) for prompt in tokens.prompts]
    for prompt, sent in pairs:
        if prompt.count(chat.image_id) != sent.count(chat.image_id):
            return Unproved(
                "image", f"{prompt.count(chat.image_id)} image tokens, the processor emits {sent.count(chat.image_id)}"
            )
        if array("i", prompt) != sent:
            first = next((i for i, pair in enumerate(zip(prompt, sent, strict=False)) if pair[0] != pair[1]), "the end")
            return Unproved("prompt", f"differs from what inference sends at token {first}")
    if not any(tokens.supervised):
        return Unproved("answer", "no token is supervised")
    return tokens
