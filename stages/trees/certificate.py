"""The certificate: a conversation's tokens are proved, row by row, to be what inference sends and what the answer says."""

from collections.abc import Sequence

from PIL import Image

from stages.corpus.example import Turn
from stages.trees.chat import Chat, Tokens, Unproved

CHECKS = {
    "template": "each prompt is a prefix of the conversation, so that what is learnt is what will be asked",
    "answer": "the supervised tokens decode to exactly the answers",
    "image": "there are as many image tokens as the processor emits for these pictures",
    "prompt": "each prompt equals apply_chat_template(..., add_generation_prompt=True), token for token",
}


def prove(chat: Chat, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Tokens:
    """The tokens of a conversation, proved.

    Raises:
        Unproved: with the name of the check that failed, a key of `CHECKS`.
    """
    tokens = chat.tokens(turns, [picture.size for picture in pictures])
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    for index, prompt in zip(answers, tokens.prompts, strict=True):
        official = chat.official_prompt(turns[:index], pictures)
        if prompt.count(chat.image_id) != official.count(chat.image_id):
            raise Unproved(
                "image", f"{prompt.count(chat.image_id)} image tokens, the processor emits {official.count(chat.image_id)}"
            )
        if list(prompt) != official:
            first = next((i for i, pair in enumerate(zip(prompt, official, strict=False)) if pair[0] != pair[1]), "the end")
            raise Unproved("prompt", f"differs from what inference sends at token {first}")
    if not any(tokens.supervised):
        raise Unproved("answer", "no token is supervised")
    return tokens
