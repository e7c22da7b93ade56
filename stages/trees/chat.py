"""A conversation in the model's own chat template, as tokens, with the mask of what it is to learn."""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from stages.corpus.example import IMAGE, Turn

if TYPE_CHECKING:
    from transformers import ProcessorMixin

Size = tuple[int, int]
"""Width and height in pixels."""
Asked = tuple[tuple[Turn, ...], tuple[Size, ...]]
"""The words up to where an answer is due, and the sizes of the pictures they are about."""


REMEMBERED_IDS = 8_000_000
"""Ids of prompts kept in memory, four bytes each."""


class Unproved(ValueError):
    """A conversation whose mask could not be proved; `check` names the check it failed."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check


@dataclass(frozen=True, slots=True)
class Tokens:
    """A conversation as token ids."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    """For each id, whether it belongs to an answer (its text or the token that ends the turn)."""
    image_end: int
    """How many ids up to and with the last image token; 0 without pictures."""
    prompts: tuple[tuple[int, ...], ...]
    """What inference would send before each answer: a prefix of `ids` each."""


class Chat:
    """A processor's chat template as a function of conversations."""

    def __init__(self, processor: "ProcessorMixin", stops: Collection[int]) -> None:
        """`stops`: the ids on which the model stops generating."""
        self.processor: Any = processor
        self.stops = stops
        self.tokenizer = processor.tokenizer
        self.image_token = image_token(processor)
        self.image_id: int = getattr(processor, "image_token_id", None) or self.tokenizer.convert_tokens_to_ids(
            self.image_token
        )
        self.special = {id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.expansions: dict[tuple[Size, int], list[int]] = {}
        self.official: dict[Asked, Sequence[int]] = {}
        self.remembered = 0
        """Ids in `official`."""

    def tokens(self, turns: Sequence[Turn], sizes: Sequence[Size]) -> Tokens:
        """The conversation with pictures of `sizes`; `<image>` marks stand in the user's turns.

        Raises:
            Unproved: `template` if the template does not write a conversation as its prompt, then the answer;
                `answer` if the supervised tokens do not decode to exactly the answer; `end` if the last of them is none on
                which generation stops.
        """
        messages = [message(turn) for turn in turns]
        whole = self._ids(self._text(messages, False), sizes)
        supervised = [False] * len(whole)
        prompts = []
        for index, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            is_last = index == len(turns) - 1
            prompt = self._ids(self._text(messages[:index], True), sizes)
            upto = whole if is_last else self._ids(self._text(messages[: index + 1], False), sizes)
            if whole[: len(prompt)] != prompt or upto[: len(prompt)] != prompt:
                raise Unproved("template", f"the prompt before answer {index // 2 + 1} is no prefix of the conversation")
            answer = self._answer(upto[len(prompt) :])
            end = len(prompt) + len(answer)
            if whole[len(prompt) : end] != answer:
                raise Unproved("template", f"answer {index // 2 + 1} reads otherwise once the conversation goes on")
            said = self.tokenizer.decode(answer, skip_special_tokens=True)
            # A template may put a space or a line feed around the answer; the answer itself must be there to the letter.
            if said != turn.text and said.strip() != turn.text.strip():
                raise Unproved("answer", f"supervised tokens decode to {said[:80]!r}, the answer is {turn.text[:80]!r}")
            if not answer or answer[-1] not in self.stops:
                last = "no token" if not answer else repr(self.tokenizer.convert_ids_to_tokens(answer[-1]))
                raise Unproved("end", f"answer {index // 2 + 1} ends with {last}, on which generation does not stop")
            supervised[len(prompt) : end] = [True] * len(answer)
            prompts.append(tuple(prompt))
        if sizes and self.image_id not in whole:
            raise Unproved("image", f"the template writes no image token ({self.image_token}) for {len(sizes)} pictures")
        image_positions = [position for position, id in enumerate(whole) if id == self.image_id]
        return Tokens(tuple(whole), tuple(supervised), image_positions[-1] + 1 if sizes else 0, tuple(prompts))

    def official_prompts(self, asked: Sequence[Sequence[Turn]], pictures: Sequence[Image.Image]) -> list[Sequence[int]]:
        """What the processor itself sends to the model for each of `asked`, all about these pictures, when an answer is due.

        Which ids a processor writes hangs on the words and on the pictures' sizes, not on what they show; so words that
        were asked of other pictures of these sizes are not asked again.
        """
        sizes = tuple(picture.size for picture in pictures)
        keys = [(tuple(turns), sizes) for turns in asked]
        found = {key: self.official[key] for key in keys if key in self.official}
        if new := list(dict.fromkeys(key for key in keys if key not in found)):
            # One call for all: most of what a call costs is the processor's handling of its own arguments.
            out = self.processor.apply_chat_template(
                [_shown(turns, pictures) for turns, _ in new],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors=None,
                processor_kwargs={"padding": False},
            )
            sent: dict[Asked, Sequence[int]] = {key: array("i", ids) for key, ids in zip(new, out["input_ids"], strict=True)}
            self._remember(sent)
            found |= sent
        return [found[key] for key in keys]

    def _remember(self, sent: dict[Asked, Sequence[int]]) -> None:
        """Keep `sent` for the next pictures, instead of all that was kept before where both are too much."""
        size = sum(len(ids) for ids in sent.values())
        if self.remembered + size > REMEMBERED_IDS:
            self.official, self.remembered = {}, 0
        if size <= REMEMBERED_IDS:
            self.official |= sent
            self.remembered += size

    def _text(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        return self.processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)

    def _ids(self, text: str, sizes: Sequence[Size]) -> list[int]:
        bos = self.tokenizer.bos_token
        add_special = not (bos is not None and text.startswith(bos))
        ids = self.tokenizer(text, add_special_tokens=add_special)["input_ids"]
        expanded: list[int] = []
        waiting = iter(sizes)
        for id in ids:
            if id != self.image_id:
                expanded.append(id)
            elif (size := next(waiting, None)) is not None:
                expanded.extend(self._expansion(size, len(sizes)))
            else:
                raise Unproved("image", f"the conversation has more image tokens than pictures ({len(sizes)})")
        return expanded

    def _expansion(self, size: Size, among: int) -> list[int]:
        """The ids that stand for one picture of `size` in a conversation of `among`; some families give each fewer then."""
        if (size, among) not in self.expansions:
            out = self.processor(
                text=[self.image_token * among],
                images=[[Image.new("RGB", size)] * among],
                add_special_tokens=False,
                return_tensors=None,
            )
            ids = [int(id) for id in out["input_ids"][0]]
            if len(ids) % among:
                raise Unproved("image", f"the processor gives {len(ids)} ids for {among} pictures of one size")
            self.expansions[size, among] = ids[: len(ids) // among]
        return self.expansions[size, among]

    def _answer(self, tail: list[int]) -> list[int]:
        """The answer's tokens and the special token that ends its turn, without what the template writes after that."""
        for position, id in enumerate(tail):
            if id in self.special:
                return tail[: position + 1]
        return tail


def image_token(processor: "ProcessorMixin") -> str:
    """What stands for a picture in the words that `processor` is given."""
    return getattr(processor, "image_token", IMAGE)


def _shown(turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """`turns` as messages that carry the pictures themselves."""
    waiting = iter(pictures)
    messages = [message(turn) for turn in turns]
    for part in (part for one in messages for part in one["content"] if part["type"] == "image"):
        part["image"] = next(waiting)
    return messages


def message(turn: Turn) -> dict[str, Any]:
    """A turn as transformers' chat templates take it; each `<image>` mark becomes a part of its own."""
    content: list[dict[str, Any]] = []
    for number, text in enumerate(turn.text.split(IMAGE)):
        if number:
            content.append({"type": "image"})
        if text:
            content.append({"type": "text", "text": text})
    return {"role": turn.role, "content": content}
