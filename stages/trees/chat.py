"""Conversations in the model's own chat template, as text and as tokens, many at a time; and what its processor itself sends.

Words and pictures come apart here. Which ids stand for a picture hangs on its width and height (and on how many pictures there
are), never on what it shows: true of every processor of transformers, and of their video and audio halves nothing is used. So
no picture is opened, and a processor is shown blank ones of the same sizes.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from PIL import Image

from stages.corpus.example import IMAGE, Turn
from stages.trees.written import written

if TYPE_CHECKING:
    from transformers import ProcessorMixin

Size = tuple[int, int]
"""Width and height in pixels."""
Messages = list[dict[str, Any]]
"""A conversation as transformers' chat templates take it."""


class Unproved(ValueError):
    """A conversation whose mask could not be proved; `check` names the check it failed."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check


@dataclass(frozen=True, slots=True)
class Text:
    """What the template writes, as ids in which one image token stands for each picture."""

    text: str
    ids: Sequence[int]
    marks: int
    """Image tokens among `ids`."""
    cut: int
    """Ids up to and with the last image token; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Head:
    """A text up to its last picture, as the ids that the model is given."""

    prefix: tuple[int, ...]
    """Up to and with the last image token."""
    behind: tuple[int, ...]
    """What some processors write behind the last image token, and belongs to the picture."""


NO_PICTURE = Head((), ())


class Chat:
    """A processor's chat template and tokenizer as functions of conversations."""

    def __init__(self, processor: "ProcessorMixin", stops: Collection[int]) -> None:
        """`stops`: the ids on which the model stops generating."""
        self.processor: Any = processor
        self.stops = stops
        self.tokenizer = processor.tokenizer
        self.written = written(processor)
        self.image_token, self.image_id = self.written.image_token, self.written.image_id
        added = self.tokenizer.added_tokens_decoder
        self.added = set(added)
        """Ids at which the tokenizer cuts a text before it does anything else."""
        self.special = {id for id, token in added.items() if token.special}
        self._id_of = {token.content: id for id, token in added.items() if token.special}
        self._special_text = re.compile("|".join(sorted(map(re.escape, self._id_of), key=len, reverse=True)) or "(?!)")
        self._last: tuple[Text, list[tuple[int, int, int]]] | None = None
        """The conversation whose special tokens were looked for last; its prompts come one after the other."""
        self.expansions: dict[tuple[Size, int], tuple[int, ...] | Unproved] = {}
        """What stands for one picture of a size, in a conversation of so many; equal ones are one object."""
        self._alike: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._heads: dict[tuple[tuple[int, ...], tuple[int, ...]], Head] = {}
        self._sent_heads: dict[tuple[str, tuple[int, ...]], Head | None] = {}

    def write(self, conversations: Sequence[Messages], prompt: bool) -> list[str | Unproved]:
        """Each of `conversations` as the text that is tokenised; as a `prompt`, up to where the next answer is due."""
        try:
            return self._written(conversations, prompt)
        except TemplateError:
            return [self._written_alone(one, prompt) for one in conversations]

    def _written(self, conversations: Sequence[Messages], prompt: bool) -> list[str | Unproved]:
        if not conversations:
            return []
        texts: list[str] = self.processor.apply_chat_template(list(conversations), add_generation_prompt=prompt, tokenize=False)
        return [self.written.text(text, prompt) for text in texts]

    def _written_alone(self, conversation: Messages, prompt: bool) -> str | Unproved:
        try:
            return self._written([conversation], prompt)[0]
        except TemplateError as error:
            return Unproved("template", f"it refuses the conversation: {error}")

    def read(self, texts: Sequence[str], begun: Sequence[Text | None] | None = None) -> list[Text]:
        """`texts` as ids, each as the processor's tokenizer reads it alone: neither padded nor cut.

        A text that begins as one of `begun` is read from the last special token on that both have: there a tokenizer cuts a
        text before it does anything else, so nothing that follows changes what went before. So a conversation of many turns
        is not read once more for each of its answers.
        """
        bos = self.tokenizer.bos_token
        known = [self._known(text, whole) for text, whole in zip(texts, begun or [None] * len(texts), strict=True)]
        rest = [text[start:] for text, (start, _) in zip(texts, known, strict=True)]
        bare = [
            not before and (bos is None or not text.startswith(bos)) for text, (_, before) in zip(texts, known, strict=True)
        ]
        return [
            self._text(text, [*before, *ids])
            for text, (_, before), ids in zip(texts, known, self._ids(rest, bare), strict=True)
        ]

    def _known(self, text: str, whole: Text | None) -> tuple[int, Sequence[int]]:
        """Where the last special token begins up to whose end `text` is `whole`, and the ids before it; if none, the start."""
        for start, end, place in reversed(self._cuts(whole)) if whole else ():
            if end < len(text) and whole is not None and whole.text.startswith(text[:end]):
                return start, whole.ids[:place]
        return 0, ()

    def _ids(self, texts: Sequence[str], add_special: Sequence[bool]) -> list[list[int]]:
        ids: list[list[int]] = [[]] * len(texts)
        for wanted in set(add_special):
            places = [place for place, one in enumerate(add_special) if one == wanted]
            out = self.tokenizer(
                [texts[place] for place in places],
                add_special_tokens=wanted,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                verbose=False,
            )
            for place, one in zip(places, out["input_ids"], strict=True):
                ids[place] = one
        return ids

    def _cuts(self, whole: Text) -> list[tuple[int, int, int]]:
        """Where each special token of `whole` begins and ends in its text, and its place in its ids; none if unclear."""
        if self._last is None or self._last[0] is not whole:
            written = [(*found.span(), self._id_of[found.group()]) for found in self._special_text.finditer(whole.text)]
            special = [(place, one) for place, one in enumerate(whole.ids) if one in self.special]
            # What the tokenizer itself puts before a text is not written in it.
            special = special[max(0, len(special) - len(written)) :]
            plain = [one for _, one in special] == [one for *_, one in written]
            cuts = [(start, end, place) for (start, end, _), (place, _) in zip(written, special, strict=True)] if plain else []
            self._last = whole, cuts
        return self._last[1]

    def _text(self, text: str, ids: list[int]) -> Text:
        marks = ids.count(self.image_id)
        cut = len(ids) - ids[::-1].index(self.image_id) if marks else 0
        return Text(text, ids, marks, cut)

    def head(self, text: Text, sizes: Sequence[Size]) -> Head:
        """`text` up to its last picture, with all ids of its pictures.

        Raises:
            Unproved: there are not as many image tokens as pictures, or the processor takes no picture of one of the sizes.
        """
        if text.marks > len(sizes):
            raise Unproved("image", f"the conversation has more image tokens than pictures ({len(sizes)})")
        if not text.marks and sizes:
            raise Unproved("image", f"the template writes no image token ({self.written.mark}) for {len(sizes)} pictures")
        if text.marks < len(sizes):
            raise Unproved("image", f"the template writes {text.marks} image tokens for {len(sizes)} pictures")
        if not sizes:
            return NO_PICTURE
        expansions = tuple(self.expansion(size, len(sizes)) for size in sizes)
        # Equal expansions are one object, which never goes: so its id stands for hundreds of numbers.
        key = (tuple(text.ids[: text.cut]), tuple(map(id, expansions)))
        if key not in self._heads:
            waiting = iter(expansions)
            ids: list[int] = []
            for one in key[0]:
                ids.extend(next(waiting) if one == self.image_id else (one,))
            self._heads[key] = self._head(ids)
        return self._heads[key]

    def _head(self, ids: list[int]) -> Head:
        end = len(ids) - ids[::-1].index(self.image_id) if self.image_id in ids else 0
        return Head(tuple(ids[:end]), tuple(ids[end:]))

    def expansion(self, size: Size, among: int) -> tuple[int, ...]:
        """The ids that stand for one picture of `size` in a conversation of `among`; some families give each fewer then.

        Raises:
            Unproved: the processor takes no such picture, or writes another number of ids for each of several alike.
        """
        if (size, among) not in self.expansions:
            self.expansions[size, among] = self._expansion(size, among)
        found = self.expansions[size, among]
        if isinstance(found, Unproved):
            raise Unproved(found.check, str(found).removeprefix(f"{found.check}: "))
        return found

    def _expansion(self, size: Size, among: int) -> tuple[int, ...] | Unproved:
        try:
            out = self.processor(
                text=[self.written.mark * among],
                images=[[Image.new("RGB", size)] * among],
                add_special_tokens=False,
                return_tensors=None,
            )
            ids = self.written.picture([int(id) for id in out["input_ids"][0]], among)
        except ValueError as error:
            return Unproved("image", f"the processor refuses {among} pictures of {size[0]} × {size[1]}: {error}")
        if len(ids) % among:
            return Unproved("image", f"the processor gives {len(ids)} ids for {among} pictures of one size")
        one = tuple(ids[: len(ids) // among])
        return self._alike.setdefault(one, one)

    def sent(self, turns: Sequence[Turn], sizes: Sequence[Size]) -> list[int]:
        """What the processor itself sends to the model when an answer to `turns` is due.

        Raises:
            Unproved: it refuses to.
        """
        pictures = [Image.new("RGB", size) for size in sizes]
        try:
            out = self.processor.apply_chat_template(
                [_shown(turns, pictures)],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors=None,
                processor_kwargs={"padding": False},
            )
        except TemplateError as error:
            raise Unproved("template", f"it refuses the conversation: {error}") from None
        except ValueError as error:
            raise Unproved("prompt", f"the processor refuses the prompt: {error}") from None
        return [int(id) for id in out["input_ids"][0]]

    def sent_head(self, prompt: Text, turns: Sequence[Turn], sizes: Sequence[Size]) -> Head | None:
        """What the processor itself sends up to where the words behind the last picture begin; None if that cannot be told.

        It is asked once for each such beginning and each expansion of its pictures, with `turns`, whose prompt `prompt` is.
        Whatever stands behind an added token is tokenised for itself, so the words behind it change nothing before it.
        """
        expansions = tuple(id(self.expansion(size, len(sizes))) for size in sizes)
        key = (prompt.text[: prompt.text.rfind(self.image_token)], expansions)
        if key not in self._sent_heads:
            try:
                sent = self.sent(turns, sizes)
            except Unproved:
                return None
            words = list(prompt.ids[prompt.cut :])
            end = len(sent) - len(words)
            known = end > 0 and sent[end:] == words and sent[end - 1] in self.added
            self._sent_heads[key] = self._head(sent[:end]) if known else None
        return self._sent_heads[key]

    def answers(self, own: Sequence[int], starts: Sequence[int]) -> list[tuple[int, int]]:
        """Where each answer stands in `own`: from its start on, up to and with the special token that ends its turn."""
        special = [place for place, id in enumerate(own) if id in self.special]
        ends = [bisect_left(special, start) for start in starts]
        return [(start, special[end] + 1 if end < len(special) else len(own)) for start, end in zip(starts, ends, strict=True)]

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The text of each of `answers`, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True) if answers else []
        return texts


@dataclass(frozen=True, slots=True)
class Tokens:
    """A conversation as token ids, with what it is to learn."""

    prefix: tuple[int, ...]
    """Up to and with the last image token; empty without pictures."""
    own: Sequence[int]
    """What follows."""
    answers: tuple[tuple[int, int], ...]
    """Where in `own` each answer begins and ends, with the token that ends its turn."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole conversation."""
        return (*self.prefix, *self.own)

    @property
    def supervised(self) -> tuple[bool, ...]:
        """For each of `ids`, whether it belongs to an answer."""
        steps = [0] * (len(self.own) + 1)
        for start, end in self.answers:
            steps[start] += 1
            steps[end] -= 1
        return (*[False] * len(self.prefix), *(bool(depth) for depth in accumulate(steps[:-1])))

    @property
    def image_end(self) -> int:
        """How many ids up to and with the last image token."""
        return len(self.prefix)


def _shown(turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Messages:
    """`turns` as messages that carry the pictures themselves."""
    waiting = iter(pictures)
    messages = [message(turn) for turn in turns]
    for part in (part for one in messages for part in one["content"] if part["type"] == "image"):
        part["image"] = next(waiting)
    return messages


def message(turn: Turn) -> dict[str, Any]:
    """A turn as transformers' chat templates take it; each `<image>` mark becomes a part of its own."""
    if IMAGE not in turn.text:
        return {"role": turn.role, "content": [{"type": "text", "text": turn.text}] if turn.text else []}
    content: list[dict[str, Any]] = []
    for number, text in enumerate(turn.text.split(IMAGE)):
        if number:
            content.append({"type": "image"})
        if text:
            content.append({"type": "text", "text": text})
    return {"role": turn.role, "content": content}
