"""The certificate: a conversation's tokens are proved, row by row, to be a prompt as inference has it, and the answer.

What is learnt and what proves it are made apart. Learnt is the whole conversation, written by the chat template without a
prompt's end. The proof has each answer's prompt written anew, as inference has it written, tokenised on its own, and compared
with the beginning of what is learnt, id by id; and it has what is learnt decoded, and compared with the answer, to the letter.

The processor itself takes milliseconds for a prompt, so it is not asked about every row. It writes a prompt in two steps: words
to ids, which is done again here for each row, and pictures to ids, in which only their sizes count. So it is asked, among rows
that are proved together, for each size of picture by itself, for each beginning of a conversation up to its last picture, for
each order of turns and special tokens, for the longest prompt (whatever cuts long prompts cuts this one) and for one prompt in
`SAMPLE`; what it sends must be what was compared. If it ever is not, it is asked about every one of these rows. Of a processor
that rewrites some words, and was not asked about a prompt that has them, nothing is found.
"""

import hashlib
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from stages.corpus.example import IMAGE, Turn
from stages.trees.chat import Chat, Head, Size, Text, Tokens, Unproved, message

Asked = tuple[Sequence[Turn], Sequence[Size]]
"""A conversation, and the sizes of its pictures."""

CHECKS = {
    "template": "each prompt is a prefix of the conversation, so that what is learnt is what will be asked",
    "words": "what was asked and answered stands in the conversation word for word, in its order",
    "answer": "the supervised tokens decode to exactly the answers, but for white space that the template puts around them",
    "end": "the last supervised token of each answer is one on which generation stops",
    "image": "there are as many image tokens as the processor emits for these pictures",
    "prompt": "each prompt that the processor itself was asked for, by apply_chat_template(..., add_generation_prompt=True), "
    "equals the one that was written and tokenised here, token for token",
}
BATCH = 256
"""Conversations that are written and tokenised together."""
SAMPLE = 1000
"""Of so many prompts the processor itself is asked for one, by what they say, whatever it sent for others."""

TRIED = (Turn("user", f"{IMAGE}What is it?"), Turn("assistant", "A cat."))
CLOCK = "strftime_now"
"""What transformers lets every template call."""
ANOTHER_DAY = ("1999-12-31", "2035-07-04")


def check_end(chat: Chat, model: Path) -> None:
    """Find before any row is rendered that the template of the model in the folder `model` would end none of them.

    Raises:
        ValueError: it writes an answer without a token behind it on which generation stops.
    """
    try:
        prove(chat, TRIED, [(64, 64)])
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


def check_clock(chat: Chat, model: Path) -> None:
    """Find before any row is rendered that the template of the model in the folder `model` tells the time.

    Raises:
        ValueError: it writes one thing on one day and another on the next.
    """
    template = chat.processor.chat_template
    template = template.get("default", "") if isinstance(template, dict) else template
    if CLOCK not in template:
        return
    messages = [message(turn) for turn in TRIED]
    days = [template.replace(CLOCK, f"'{day}'.format") for day in ANOTHER_DAY]
    texts = {chat.processor.apply_chat_template(messages, chat_template=day, tokenize=False) for day in days}
    if len(texts) > 1:
        raise ValueError(
            f"the chat template of the base model in {model} writes today's date ({CLOCK}): what is learnt today is not "
            "what will be asked tomorrow, and no two runs would give the same trees. In a folder of your own with the model's "
            "files, write a fixed date instead in chat_template.jinja, and name the folder as base.model in params.yaml"
        )


def prove(chat: Chat, turns: Sequence[Turn], sizes: Sequence[Size]) -> Tokens:
    """The tokens of a conversation about pictures of `sizes`, proved.

    Raises:
        Unproved: with the name of the check that failed, a key of `CHECKS`.
    """
    (tokens,) = prove_all(chat, [(turns, sizes)])
    if isinstance(tokens, Unproved):
        raise tokens
    return tokens


def prove_all(chat: Chat, rows: Sequence[Asked]) -> list[Tokens | Unproved]:
    """For each of `rows` its tokens, proved, or the check that it failed."""
    try:
        return _proved(Prover(chat), rows)
    except Doubt:
        return _proved(Prover(chat, ask_of_all=True), rows)


def _proved(prover: "Prover", rows: Sequence[Asked]) -> list[Tokens | Unproved]:
    proved = prover(rows)
    prover.confirm()
    return proved


class Doubt(Exception):
    """The processor itself sends something else than what its steps, done one by one, come to."""


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation as the template writes it: whole, and as the prompt of each of its answers."""

    turns: Sequence[Turn]
    sizes: Sequence[Size]
    whole: Text
    prompts: Sequence[Text]


@dataclass(slots=True)
class Claim:
    """By what a row may be the one of those beside it about which the processor itself is asked.

    That is the first row of each structure, and the first of the longest prompt. So whoever leaves out rows that were proved
    before, and no such one, has the processor asked what it would have been asked had none been left out.
    """

    structures: list[int] = field(default_factory=list)
    """Of its prompts the orders of turns and special tokens, each as 64 bits."""
    longest: int = 0
    """Tokens of its longest prompt."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt about which the processor itself is asked, and what it is to send."""

    turns: Sequence[Turn]
    sizes: Sequence[Size]
    ids: Sequence[int]


class Prover:
    """Proves rows, a batch at a time, and gathers what the processor itself is to be asked."""

    def __init__(self, chat: Chat, ask_of_all: bool = False) -> None:
        """`ask_of_all`: whether the processor itself is asked about every prompt, and not only where it could differ."""
        self.chat, self.ask_of_all = chat, ask_of_all
        self.structures: dict[tuple[int, ...], Probe] = {}
        self.claims: list[Claim] = []
        """Of each row; where the processor is asked of all, none claims anything."""
        self.sampled: list[Probe] = []
        self.longest: Probe | None = None
        self.longest_length = 0

    def __call__(self, rows: Sequence[Asked]) -> list[Tokens | Unproved]:
        """What becomes of each of `rows`; may be called again and again, and `confirm` after the last.

        Raises:
            Doubt: the processor is to be asked about every row, those of earlier calls too.
        """
        return [one for first in range(0, len(rows), BATCH) for one in self._batch(rows[first : first + BATCH])]

    def _batch(self, rows: Sequence[Asked]) -> Iterator[Tokens | Unproved]:
        written = list(self._written(rows))
        learnt = [one if isinstance(one, Unproved) else self._learnt(one) for one in written]
        said = iter(self.chat.decode([list(one.own[a:b]) for one in learnt if isinstance(one, Tokens) for a, b in one.answers]))
        for row, tokens in zip(written, learnt, strict=True):
            self.claims.append(Claim())
            if isinstance(row, Row) and isinstance(tokens, Tokens):
                tokens = self._judged(row, tokens, [next(said) for _ in tokens.answers])
            yield tokens

    def confirm(self) -> None:
        """Ask the processor itself where it has not been asked yet.

        Raises:
            Doubt: it sends something else than what was compared, so nothing of that holds.
        """
        longest = [self.longest] if self.longest else []
        probes = {id(probe): probe for probe in (*longest, *self.structures.values(), *self.sampled)}
        for probe in probes.values():
            try:
                sent = self.chat.sent(probe.turns, probe.sizes)
            except Unproved as fault:
                raise Doubt from fault
            if sent != list(probe.ids):
                raise Doubt

    def _written(self, rows: Sequence[Asked]) -> Iterator[Row | Unproved]:
        """Each row as the template writes it: all of a batch at once, and all tokenised at once."""
        messages = [[message(turn) for turn in turns] for turns, _ in rows]
        answered = [[place for place, turn in enumerate(turns) if turn.role == "assistant"] for turns, _ in rows]
        wholes = self._read(self.chat.write(messages, prompt=False), [None] * len(rows))
        upto = [one[:place] for one, places in zip(messages, answered, strict=True) for place in places]
        begun = [
            whole if isinstance(whole, Text) and len(places) > 1 else None
            for whole, places in zip(wholes, answered, strict=True)
            for _ in places
        ]
        asked = iter(self._read(self.chat.write(upto, prompt=True), begun))
        for (turns, sizes), whole, places in zip(rows, wholes, answered, strict=True):
            prompts = [next(asked) for _ in places]
            refused = next((one for one in (whole, *prompts) if isinstance(one, Unproved)), None)
            if refused is None and isinstance(whole, Text):
                yield Row(turns, sizes, whole, [one for one in prompts if isinstance(one, Text)])
            elif refused is not None:
                yield refused

    def _read(self, texts: Sequence[str | Unproved], begun: Sequence[Text | None]) -> list[Text | Unproved]:
        """`texts` tokenised, all at once; those that begin as a conversation does, from where that is known."""
        told = [(text, whole) for text, whole in zip(texts, begun, strict=True) if isinstance(text, str)]
        if self.ask_of_all:
            read = iter([self.chat.read([text])[0] for text, _ in told])
        else:
            read = iter(self._read_together([text for text, _ in told], [whole for _, whole in told]))
        return [next(read) if isinstance(text, str) else text for text in texts]

    def _read_together(self, texts: Sequence[str], begun: Sequence[Text | None]) -> list[Text]:
        read = self.chat.read(texts, begun)
        # Whatever pads texts or cuts them shows at the shortest or at the longest.
        for pick in (min, max) if read else ():
            one = pick(read, key=lambda one: len(one.text))
            if list(self.chat.read([one.text])[0].ids) != list(one.ids):
                raise Doubt
        return read

    def _learnt(self, row: Row) -> Tokens | Unproved:
        """The conversation as it will be learnt: an answer begins where its prompt ends."""
        try:
            head = self.chat.head(row.whole, row.sizes)
        except Unproved as fault:
            return fault
        own = array("i", (*head.behind, *row.whole.ids[row.whole.cut :]))
        starts = [len(head.behind) + len(prompt.ids) - prompt.cut for prompt in row.prompts]
        return Tokens(head.prefix, own, tuple(self.chat.answers(own, starts)))

    def _judged(self, row: Row, tokens: Tokens, said: Sequence[str]) -> Tokens | Unproved:
        """`tokens`, if all of `CHECKS` hold; nothing of how they were made is trusted."""
        try:
            heads = [self.chat.head(prompt, row.sizes) for prompt in row.prompts]
            begun = [
                (head.prefix, array("i", (*head.behind, *prompt.ids[prompt.cut :])))
                for head, prompt in zip(heads, row.prompts, strict=True)
            ]
            self._template(tokens, begun)
            self._answers(row, tokens, begun, said)
            self._words(row)
            answered = (place for place, turn in enumerate(row.turns) if turn.role == "assistant")
            for place, head, prompt in zip(answered, heads, row.prompts, strict=True):
                self._prompt(row, row.turns[:place], head, prompt)
        except Unproved as fault:
            return fault
        return tokens

    def _template(self, tokens: Tokens, begun: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        for number, (prefix, own) in enumerate(begun, 1):
            if prefix != tokens.prefix or own != tokens.own[: len(own)]:
                raise Unproved("template", f"the prompt before answer {number} is no prefix of the conversation")

    def _answers(
        self, row: Row, tokens: Tokens, begun: Sequence[tuple[Sequence[int], Sequence[int]]], said: Sequence[str]
    ) -> None:
        answers = [turn.text for turn in row.turns if turn.role == "assistant"]
        if not tokens.answers or len(tokens.answers) != len(answers):
            raise Unproved("answer", f"{len(tokens.answers)} answers are supervised, the conversation has {len(answers)}")
        whole = zip(tokens.answers, begun, said, answers, strict=True)
        for number, ((start, end), (_, own), text, answer) in enumerate(whole, 1):
            # A template may put a space or a line feed around the answer; the answer itself must be there to the letter.
            if text != answer and text.strip() != answer.strip():
                raise Unproved("answer", f"supervised tokens decode to {text[:80]!r}, the answer is {answer[:80]!r}")
            if start != len(own):
                raise Unproved("answer", f"answer {number} is supervised from {start - len(own):+} tokens behind its prompt on")
            if end <= start or tokens.own[end - 1] not in self.chat.stops:
                last = "no token" if end <= start else repr(self.chat.tokenizer.convert_ids_to_tokens(tokens.own[end - 1]))
                raise Unproved("end", f"answer {number} ends with {last}, on which generation does not stop")

    def _words(self, row: Row) -> None:
        place = 0
        for number, turn in enumerate(row.turns, 1):
            for part in turn.text.split(IMAGE):
                words = part.strip()
                place = row.whole.text.find(words, place)
                if place < 0:
                    raise Unproved("words", f"turn {number} does not stand in the conversation behind those before it")
                place += len(words)

    def _prompt(self, row: Row, turns: Sequence[Turn], head: Head, prompt: Text) -> None:
        """Compare a prompt, whose words were tokenised on their own, with what the processor itself sends."""
        words = prompt.ids[prompt.cut :]
        if self.ask_of_all:
            self._equal((*head.prefix, *head.behind, *words), self.chat.sent(turns, row.sizes))
            return
        if row.sizes:
            sent = self.chat.sent_head(prompt, turns, row.sizes)
            if sent is None:
                raise Doubt
            if sent != head:
                self._equal((*head.prefix, *head.behind, *words), (*sent.prefix, *sent.behind, *words))
        structure = (len(turns), *(one for one in prompt.ids if one in self.chat.special))
        length = len(head.prefix) + len(words)
        claim = self.claims[-1]
        claim.structures.append(_named(structure))
        claim.longest = max(claim.longest, length)
        is_longest = self.longest is None or length > self.longest_length
        # By what it says, so that neither its place nor the rows beside it have a part in it.
        is_sampled = zlib.crc32(array("i", words).tobytes()) % SAMPLE == 0
        if is_longest or is_sampled or structure not in self.structures:
            probe = Probe(turns, row.sizes, (*head.prefix, *head.behind, *words))
            self.structures.setdefault(structure, probe)
            if is_longest:
                self.longest, self.longest_length = probe, length
            if is_sampled:
                self.sampled.append(probe)

    def _equal(self, ids: Sequence[int], sent: Sequence[int]) -> None:
        ours, theirs = ids.count(self.chat.image_id), sent.count(self.chat.image_id)
        if ours != theirs:
            raise Unproved("image", f"{ours} image tokens, the processor emits {theirs}")
        if list(ids) != list(sent):
            first = next((i for i, pair in enumerate(zip(ids, sent, strict=False)) if pair[0] != pair[1]), "the end")
            raise Unproved("prompt", f"differs from what inference sends at token {first}")


@lru_cache(maxsize=4096)
def _named(structure: tuple[int, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(array("q", structure).tobytes(), digest_size=8).digest(), "little")
