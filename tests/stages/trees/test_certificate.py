"""Templates, tokenizers and processors with one fault each: the certificate catches every one, and sound ones pass.

Each fault is shown to be one: without it the same conversations are proved, with it they are not, or are learnt wrongly.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from stages.corpus.example import IMAGE, Turn
from stages.models.loading import load_processor
from stages.models.tiny import CHAT_TEMPLATE
from stages.trees import certificate
from stages.trees.certificate import BATCH, CHECKS, Asked, check_clock, prove_all
from stages.trees.chat import Chat, Text, Tokens, Unproved

SIZE = (30, 20)
SINGLE: Asked = ((Turn("user", f"{IMAGE}What colour is it?"), Turn("assistant", "red")), [SIZE])
SEVERAL: Asked = ((*SINGLE[0], Turn("user", "Is it round?"), Turn("assistant", "No, it is not.")), [SIZE])
PAIR: Asked = ((Turn("user", f"{IMAGE * 2}Are they alike?"), Turn("assistant", "No")), [SIZE, (12, 40)])
WORDS: Asked = ((Turn("user", "Count the shapes."), Turn("assistant", "one two")), [])
EVERY = [SINGLE, SEVERAL, PAIR, WORDS]

PLAIN = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Roles as plain words, as Vicuna's models have them; a space between prompt and answer belongs to the answer."""


@pytest.fixture
def processor(tiny_model: Path) -> Any:
    return load_processor(tiny_model)


def ended(processor: Any, *rows: Asked) -> list[str]:
    """What becomes of `rows`: "proved", or the check that failed."""
    proved = prove_all(Chat(processor, {processor.tokenizer.eos_token_id}), list(rows))
    assert len(proved) == len(rows)
    return [one.check if isinstance(one, Unproved) else "proved" for one in proved]


def replaced(processor: Any, old: str, new: str) -> Any:
    """`processor` with a template in which `new` stands for `old`."""
    assert old in processor.chat_template
    processor.chat_template = processor.chat_template.replace(old, new)
    return processor


def calling(thing: Any, method: str, changed: Callable[..., Any]) -> None:
    """Have `thing` answer calls of `method` with `changed`, which is given the old method first."""
    before = getattr(type(thing), method)
    body = {method: lambda self, *words, **given: changed(lambda *w, **g: before(self, *w, **g), *words, **given)}
    thing.__class__ = type("Faulty", (type(thing),), body)


END = "{% if message['role'] == 'assistant' %}</s>{% endif %}"
TEXT = "{{ part['text'] }}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


# No false alarms


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        PLAIN,
        CHAT_TEMPLATE.replace("{% for message", "Be kind.\n{% for message", 1),
        CHAT_TEMPLATE.replace("{% for message", "{{ bos_token }}{% for message", 1),
        CHAT_TEMPLATE.replace("<|user|>", "<|user|>\n").replace("<|assistant|>", "<|assistant|>\n").replace(END, f"{END}\n"),
        CHAT_TEMPLATE.replace(TEXT, "{{ part['text'] | trim }}"),
        PLAIN.replace("{{ message['role'] | upper }}: ", "").replace("ASSISTANT:", "").replace("%} {%", "%}\n{%"),
    ],
    ids=[
        "ours",
        "roles as words",
        "a system prompt",
        "a start token",
        "lines between turns",
        "trimmed texts",
        "no roles at all",
    ],
)
def test_sound_templates_pass(processor, template):
    processor.tokenizer.bos_token = "<pad>"
    processor.chat_template = template
    assert ended(processor, *EVERY) == ["proved"] * len(EVERY)


def test_a_row_is_judged_alike_alone_and_among_many_in_any_order(processor):
    rows = [
        ((Turn("user", f"{IMAGE * (number % 3)}What is {number}?{' Why?' * (number % 7)}"), Turn("assistant", answer)), sizes)
        for number in range(BATCH + 60)
        for answer in ["It is </s> red" if number % 5 == 0 else f"It is {number}."]
        for sizes in [[SIZE] * (number % 3 if number % 11 else 1)]
    ]
    together = ended(processor, *rows)
    shuffled = random.Random(3).sample(range(len(rows)), len(rows))
    again = ended(processor, *(rows[number] for number in shuffled))
    assert {"proved", "answer", "image"} == set(together)
    assert again == [together[number] for number in shuffled]
    assert [ended(processor, row)[0] for row in rows[:24]] == together[:24]


# Faults of templates


def test_a_template_that_drops_the_end_of_an_answer(processor):
    assert ended(replaced(processor, END, ""), *EVERY) == ["end", "end", "end", "end"]


def test_an_end_on_which_generation_does_not_stop(processor):
    assert ended(replaced(processor, "</s>", "<pad>"), *EVERY) == ["end"] * 4


def test_a_system_prompt_at_inference_only(processor):
    odd = replaced(processor, "{% for message", "{% if add_generation_prompt %}Be kind.{% endif %}{% for message")
    assert ended(odd, *EVERY) == ["template"] * 4


def test_a_system_prompt_in_training_only(processor):
    odd = replaced(processor, "{% for message", "{% if not add_generation_prompt %}Be kind.{% endif %}{% for message")
    assert ended(odd, *EVERY) == ["template"] * 4


def test_a_system_prompt_that_only_the_processors_own_call_adds(processor):
    def kind(before: Any, conversations: Any, **given: Any) -> Any:
        words = {"role": "user", "content": [{"type": "text", "text": "Be kind."}]}
        return before([[words, *one] for one in conversations] if given.get("tokenize") else conversations, **given)

    calling(processor, "apply_chat_template", kind)
    assert ended(processor, *EVERY) == ["prompt"] * 4


def test_a_template_that_changes_the_case_of_answers(processor):
    assert ended(replaced(processor, TEXT, "{{ part['text'] | lower }}"), SINGLE, SEVERAL) == ["words", "answer"]


def test_a_template_that_strips_more_than_white_space_off_an_answer(processor):
    odd = replaced(processor, TEXT, "{{ part['text'].rstrip('.') }}")
    assert ended(odd, SINGLE, SEVERAL) == ["proved", "answer"]


def test_a_template_that_joins_the_lines_of_an_answer(processor):
    odd = replaced(processor, TEXT, "{{ part['text'].split() | join(' ') }}")
    assert ended(odd, SINGLE, ((SINGLE[0][0], Turn("assistant", "Two:\n\n1. red")), [SIZE])) == ["proved", "answer"]


def test_a_template_that_adds_words_to_an_answer(processor):
    assert ended(replaced(processor, END, END.replace("</s>", " Right?</s>")), *EVERY) == ["answer"] * 4


def test_a_template_that_writes_turns_in_another_order(processor):
    assert ended(replaced(processor, "in messages", "in messages | reverse"), SINGLE, SEVERAL) == ["template"] * 2


def test_a_template_that_groups_turns_by_who_speaks(processor):
    odd = replaced(processor, "in messages %}", "in messages | sort(attribute='role', reverse=true) %}")
    assert ended(odd, SINGLE, SEVERAL) == ["proved", "template"]


def test_a_template_that_drops_the_question(processor):
    odd = replaced(processor, TEXT, "{% if message['role'] == 'assistant' %}{{ part['text'] }}{% endif %}")
    assert ended(odd, *EVERY) == ["words"] * 4


def test_a_template_that_drops_the_last_question_of_several(processor):
    odd = replaced(processor, TEXT, "{% if part['text'] != 'Is it round?' %}" + TEXT + "{% endif %}")
    assert ended(odd, SINGLE, SEVERAL) == ["proved", "words"]


def test_a_template_that_knows_the_roles_by_other_names(processor):
    odd = replaced(processor, TEXT, "{% if message['role'] in ('human', 'gpt') %}" + TEXT + "{% endif %}")
    assert ended(odd, *EVERY) == ["answer"] * 4


def test_a_template_that_calls_the_answerer_otherwise_at_inference(processor):
    processor.chat_template = PLAIN.replace("%}ASSISTANT:", "%}GPT:")
    assert ended(processor, *EVERY) == ["template"] * 4


def test_another_white_space_before_the_answer_at_inference(processor):
    processor.chat_template = PLAIN.replace("%}ASSISTANT:", "%}ASSISTANT:\n")
    assert ended(processor, *EVERY) == ["template"] * 4


def test_a_template_that_refuses_a_conversation_refuses_that_row_alone(processor):
    odd = replaced(processor, "{% for message", "{{ nothing.at.all if messages | length > 2 else '' }}{% for message")
    assert ended(odd, SINGLE, SEVERAL, WORDS) == ["proved", "template", "proved"]


def test_a_template_that_counts_what_it_writes(processor):
    number = itertools.count()
    calling(
        processor,
        "apply_chat_template",
        lambda before, rows, **given: (
            before(rows, **given) if given.get("tokenize") else [f"{next(number)} {text}" for text in before(rows, **given)]
        ),
    )
    assert ended(processor, *EVERY) == ["template"] * 4


def test_a_template_that_tells_the_time_is_refused_before_any_row(processor):
    check_clock(Chat(processor, {1}), Path("base"))
    today = "{{ strftime_now('%d %b %Y') }}{% for message"
    odd: Any = replaced(processor, "{% for message", today)
    with pytest.raises(ValueError, match=r"in base writes today's date \(strftime_now\).*fixed date"):
        check_clock(Chat(odd, {1}), Path("base"))


def test_a_template_that_could_tell_the_time_and_does_not_passes(processor):
    odd = replaced(processor, "{% for message", "{% set day = strftime_now('%d %b %Y') if no_day else '' %}{% for message")
    check_clock(Chat(odd, {1}), Path("base"))


@pytest.mark.parametrize(("marks", "check"), [(0, "image"), (2, "image")])
def test_a_template_that_writes_another_number_of_image_tokens_than_there_are_pictures(processor, marks, check):
    odd = replaced(processor, "%}<image>{%", f"%}}{'<image>' * marks}{{%")
    assert ended(odd, *EVERY) == [check, check, check, "proved"]


# Faults of tokenizers


def test_a_tokenizer_that_merges_across_the_border_of_prompt_and_answer(processor):
    processor.chat_template = PLAIN.replace("%}ASSISTANT:", "%}ASSISTANT: o").replace(
        "{{ message['role'] | upper }}: ", "{{ message['role'] | upper }}: {{ 'o' if message['role'] == 'assistant' else '' }}"
    )
    ids = processor.tokenizer("ou", add_special_tokens=False)["input_ids"]
    assert len(ids) == 1, "the tokenizer knows a token across the border"
    across = ((SINGLE[0][0], Turn("assistant", "ugly")), [SIZE])
    assert ended(processor, SINGLE, across) == ["proved", "template"]


def start_token(processor: Any) -> None:
    """Have the tokenizer put a start token before each text, as Llama's does."""
    tokenizer = processor.tokenizer
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<pad> $A", pair="<pad> $A $B", special_tokens=[("<pad>", tokenizer.bos_token_id)]
    )


def test_a_start_token_that_the_tokenizer_writes_is_there_once_and_proved(processor):
    start_token(processor)
    (tokens,) = prove_all(Chat(processor, {processor.tokenizer.eos_token_id}), [SINGLE])
    assert isinstance(tokens, Tokens)
    assert [place for place, one in enumerate(tokens.ids) if one == processor.tokenizer.bos_token_id] == [0]
    assert ended(processor, *EVERY) == ["proved"] * 4


@pytest.mark.parametrize("add", [True, False], ids=["doubled", "missing"])
def test_a_start_token_that_is_doubled_or_missing_at_inference(processor, add):
    start_token(processor)
    if add:
        replaced(processor, "{% for message", "{{ bos_token }}{% for message")

    def call(before: Any, *words: Any, **given: Any) -> Any:
        return before(*words, **{**given, "add_special_tokens": add})

    calling(processor, "__call__", call)
    assert set(ended(processor, *EVERY)) <= {"prompt", "image"}


def test_a_tokenizer_that_cuts_long_texts(processor):
    def cut(before: Any, text: Sequence[str], **given: Any) -> Any:
        return before(text, **{**given, "truncation": True, "max_length": 24})

    calling(processor.tokenizer, "__call__", cut)
    long = ((SINGLE[0][0], Turn("assistant", "one two three " * 9)), [SIZE])
    assert ended(processor, WORDS, long)[1] in ("answer", "end")


def test_a_cut_that_an_earlier_call_left_behind_in_the_tokenizer_cuts_nothing(processor):
    processor.tokenizer.backend_tokenizer.enable_truncation(5)
    processor.tokenizer.backend_tokenizer.enable_padding(length=300)
    assert ended(processor, *EVERY) == ["proved"] * 4


def test_a_processor_that_cuts_through_a_picture(processor):
    def cut(before: Any, *words: Any, **given: Any) -> Any:
        return {"input_ids": [ids[:6] for ids in before(*words, **given)["input_ids"]]}

    calling(processor, "__call__", cut)
    assert ended(processor, PAIR) == ["image"]


def test_a_processor_that_cuts_long_prompts_only(processor):
    def cut(before: Any, *words: Any, **given: Any) -> Any:
        return {"input_ids": [ids[:60] for ids in before(*words, **given)["input_ids"]]}

    calling(processor, "__call__", cut)
    long = ((Turn("user", f"{IMAGE}{'What colour is it? ' * 30}"), Turn("assistant", "red")), [SIZE])
    assert ended(processor, SINGLE, long, SEVERAL) == ["proved", "prompt", "proved"]


def test_a_tokenizer_that_pads_a_batch_to_its_longest_text_is_read_one_text_at_a_time(processor, tiny_model):
    sound: Any = load_processor(tiny_model)

    def padded(before: Any, text: Sequence[str], **given: Any) -> Any:
        return before(text, **{**given, "padding": True})

    calling(processor.tokenizer, "__call__", padded)
    chat = Chat(processor, {processor.tokenizer.eos_token_id})
    assert len({len(one.ids) for one in chat.read(["red", "What colour is it?"])}) == 1, "it does pad"
    assert prove_all(chat, EVERY) == prove_all(Chat(sound, chat.stops), EVERY)


# Faults of processors


def test_a_processor_that_writes_another_number_of_image_tokens_in_a_prompt_than_alone(processor):
    chat = Chat(processor, {processor.tokenizer.eos_token_id})
    chat.expansions[SIZE, 1] = (chat.image_id,) * 5
    (fault,) = prove_all(chat, [SINGLE])
    assert isinstance(fault, Unproved)
    assert str(fault) == "image: 5 image tokens, the processor emits 4"


def test_a_processor_that_writes_fewer_image_tokens_for_the_second_of_several_pictures(processor):
    def fewer(before: Any, *words: Any, **given: Any) -> Any:
        out = before(*words, **given)
        pictures = sum(len(one) for one in given.get("images") or [])
        return out if pictures < 2 else {"input_ids": [_without(ids, processor.image_token_id) for ids in out["input_ids"]]}

    calling(processor, "__call__", fewer)
    assert ended(processor, SINGLE, PAIR) == ["proved", "image"]


def _without(ids: list[int], one: int) -> list[int]:
    place = len(ids) - 1 - ids[::-1].index(one)
    return ids[:place] + ids[place + 1 :]


def test_a_processor_that_takes_no_picture_of_some_shape_refuses_those_rows_alone(processor):
    def narrow(before: Any, *words: Any, **given: Any) -> Any:
        if any(image.width > 9 * image.height for one in given.get("images") or [] for image in one):
            raise ValueError("too narrow")
        return before(*words, **given)

    calling(processor, "__call__", narrow)
    assert ended(processor, SINGLE, (SINGLE[0], [(100, 10)]), WORDS) == ["proved", "image", "proved"]


def test_a_processor_that_rewrites_a_word_of_some_prompts(processor):
    def shout(before: Any, conversations: Any, **given: Any) -> Any:
        if given.get("tokenize"):
            for part in (part for one in conversations for turn in one for part in turn["content"] if "text" in part):
                part["text"] = part["text"].replace("round", "ROUND")
        return before(conversations, **given)

    calling(processor, "apply_chat_template", shout)
    assert ended(processor, SINGLE, SEVERAL, WORDS) == ["proved", "prompt", "proved"]


# Faults of rows, and our own


@pytest.mark.parametrize("text", ["red</s>blue", "red</s>", "</s>", "<|user|>red", "a <image> b"])
def test_a_special_token_in_an_answer(processor, text):
    assert ended(processor, ((SINGLE[0][0], Turn("assistant", text)), [SIZE]))[0] in ("answer", "image", "template")


def test_a_conversation_that_nobody_answers(processor):
    assert ended(processor, ((SINGLE[0][0],), [SIZE])) == ["answer"]


@pytest.mark.parametrize("by", [-1, 1])
def test_a_mask_that_is_shifted_by_one(processor, monkeypatch, by):
    before = Chat.answers
    monkeypatch.setattr(Chat, "answers", lambda *given: [(start + by, end + by) for start, end in before(*given)])
    assert set(ended(processor, *EVERY)) <= {"answer", "end"}


@pytest.mark.parametrize("by", [-1, 1])
def test_a_mask_that_begins_one_token_off(processor, monkeypatch, by):
    before = Chat.answers
    monkeypatch.setattr(Chat, "answers", lambda *given: [(start + by, end) for start, end in before(*given)])
    assert ended(processor, *EVERY) == ["answer"] * 4


def test_an_image_token_too_many_or_too_few_in_what_is_learnt(processor, monkeypatch):
    before = Chat.head
    monkeypatch.setattr(
        certificate.Prover,
        "_learnt",
        lambda self, row: Tokens(
            before(self.chat, row.whole, row.sizes).prefix[:-1], row.whole.ids[row.whole.cut :], ((9, 11),)
        ),
    )
    assert ended(processor, SINGLE) == ["template"]


def test_every_check_of_the_certificate_can_fail(processor):
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{check}"' in source for check in CHECKS)


# Whatever is written


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(turns=st.lists(st.tuples(ANY, ANY), min_size=1, max_size=4), pictures=st.integers(0, 2))
def test_what_is_proved_is_what_the_processor_sends_and_the_answers_to_the_letter(tiny_chat, turns, pictures):
    chat: Chat = tiny_chat
    said = [Turn(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    said[0] = Turn("user", IMAGE * pictures + said[0].text)
    sizes = [SIZE] * pictures
    (tokens,) = prove_all(chat, [(said, sizes)])
    if isinstance(tokens, Unproved):
        assert any(mark in text for pair in turns for text in pair for mark in (IMAGE, "</s>", "<|", "<pad>")) or not all(
            answer for _, answer in turns
        )
        return
    for number, (start, end) in enumerate(tokens.answers):
        assert list(tokens.ids[: tokens.image_end + start]) == chat.sent(said[: 2 * number + 1], sizes)
        assert chat.decode([list(tokens.own[start:end])])[0].strip() == turns[number][1].strip()
    assert sum(tokens.supervised) == sum(end - start for start, end in tokens.answers)


@pytest.fixture(scope="module")
def tiny_chat(tiny_model: Path) -> Chat:
    processor: Any = load_processor(tiny_model)
    return Chat(processor, {processor.tokenizer.eos_token_id})


def test_a_text_is_tokenised_from_its_last_known_special_token_as_it_is_from_its_beginning(tiny_chat):
    whole = "<|user|><image>What?<|assistant|>red</s><|user|>Is it?<|assistant|>No</s>"
    (known,) = tiny_chat.read([whole])
    ends = [place for place in range(1, len(whole) + 1)]
    texts = [whole[:end] + extra for end in ends for extra in ("", "Why", "</s>")]
    assert [one.ids for one in tiny_chat.read(texts, [known] * len(texts))] == [one.ids for one in tiny_chat.read(texts)]
    assert isinstance(known, Text)
