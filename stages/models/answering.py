"""A model answers questions about pictures: greedily, in batches, each answer as if it had been asked alone.

Questions about one picture share it: picture and the words before it go through the model once, and each question goes on from
there (keys and values are copied). Where a family is not proved to allow that, each question is asked with its picture.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PretrainedConfig

from stages.corpus.decoding import FORMATS
from stages.models.device import resolve_device
from stages.models.loading import load_model, load_processor
from stages.models.nested import nested
from stages.models.question import Question

SHARING = {"llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl"}
"""Model types that answer alike whether the picture's keys and values are copied or made anew (a test holds it for each)."""
OF_WORDS = {"input_ids", "attention_mask"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as the processor gives it, with the words that stand before it."""

    prefix: tuple[int, ...]
    """Token ids up to the picture's last."""
    pictures: Mapping[str, Tensor]
    """What the model takes beside words."""


class Answerer:
    """A model in a folder, ready to answer."""

    def __init__(self, folder: Path, device: str, threads: int, precision: str) -> None:
        """Load it. `device` auto, cpu or cuda; `threads` CPU threads; `precision` fp32 or bf16."""
        torch.set_num_threads(threads)
        self.device = resolve_device(device)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model: Any = load_model(folder, dtype).eval()
        self.model.to(self.device)
        self.processor: Any = load_processor(folder)
        # Left: the last token of every row of a batch is then the one the answer follows.
        self.processor.tokenizer.padding_side = "left"
        self.shares = shares_pictures(self.model.config)

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """The answers to a batch of `asking.batched`, without surrounding white space."""
        if questions[0].options:
            if not self.shares:
                raise ValueError(
                    f"options of a {self.model.config.model_type} cannot be scored in one row: it is not among those of which "
                    "that is proved; set answer.options to generate in params.yaml"
                )
            return self.chosen(questions)
        pictures = {question.image for question in questions}
        if self.shares and None not in pictures and len(pictures) < len(questions):
            asked = self._once(questions)
        else:
            given = self._processed(questions, padding=True)
            asked = given.to(self.device, dtype=self.model.dtype)
        generated = self.model.generate(
            **asked, max_new_tokens=questions[0].max_new_tokens, do_sample=False, num_beams=1, use_cache=True
        )
        new = generated[:, asked["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def chosen(self, questions: Sequence[Question]) -> list[str]:
        """Of each question's options the one that is the likeliest answer, each token of it given those before.

        All questions about one picture, and all options of each, go through the model in one row.

        Raises:
            ValueError: the tokenizer draws an option and what stands before it together.
        """
        about: dict[bytes | int, list[int]] = {}
        for index, question in enumerate(questions):
            about.setdefault(index if question.image is None else question.image, []).append(index)
        picked = [""] * len(questions)
        for group in about.values():
            likely = self.likelihoods([questions[index] for index in group])
            for index, values in zip(group, likely, strict=True):
                picked[index] = questions[index].options[max(range(len(values)), key=values.__getitem__)]
        return picked

    @torch.inference_mode()
    def likelihoods(self, questions: Sequence[Question]) -> list[list[float]]:
        """The logarithm of each option's probability behind its question; all questions must be about one picture."""
        words = [self._words(question) for question in questions]
        ends = [
            [self._ending(question, asked, option) for option in question.options]
            for question, asked in zip(questions, words, strict=True)
        ]
        if questions[0].image is None:
            row, pictures = nested((), words, ends), {}
        else:
            seen = self._seen(questions[0], words[0])
            row = nested(seen.prefix, [asked[asked.index(self._image_id) + 1 :] for asked in words], ends)
            pictures = self._taken(seen.pictures)
        logits = self.model(
            input_ids=row.ids.to(self.device),
            position_ids=row.positions.to(self.device),
            attention_mask=row.sees.to(self.device),
            logits_to_keep=row.asked.to(self.device),
            use_cache=False,
            **pictures,
        ).logits
        known = torch.log_softmax(logits.float(), -1).cpu()
        return [[sum(float(known[place, token]) for place, token in option) for option in its] for its in row.told]

    def _ending(self, question: Question, asked: Sequence[int], option: str) -> list[int]:
        """The tokens of `option` as an answer to `question`, whose own tokens are `asked`."""
        ids = self._words(question, option)
        if ids[: len(asked)] != asked or len(ids) == len(asked):
            raise ValueError(
                f"the option {option!r} cannot be told from the question it follows, for the tokenizer writes the two "
                "together; set answer.options to generate in params.yaml"
            )
        return ids[len(asked) :]

    def _processed(self, questions: Sequence[Question], **how: Any) -> Any:
        return self.processor.apply_chat_template(
            [[_message(question)] for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            # Not in processor_kwargs, where SmolVLM's processor overwrites it with what it is given here.
            return_tensors="pt",
            processor_kwargs=how,
        )

    def _once(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What `generate` takes, each picture seen once: words in full, and keys and values up to the pictures' ends."""
        seen: dict[bytes | None, Seen] = {}
        tails = []
        for question in questions:
            words = self._words(question)
            if question.image not in seen:
                seen[question.image] = self._seen(question, words)
            tails.append(words[words.index(self._image_id) + 1 :])
        order = list(seen)
        rows = [order.index(question.image) for question in questions]
        prefixes = [list(seen[image].prefix) for image in order]
        cache = self._cache([seen[image] for image in order], rows)
        width = max(map(len, prefixes)), max(map(len, tails))
        ids, mask = torch.full((len(rows), sum(width)), self._pad_id), torch.zeros(len(rows), sum(width), dtype=torch.int64)
        for number, (row, tail) in enumerate(zip(rows, tails, strict=True)):
            for end, part in ((width[0], prefixes[row]), (sum(width), tail)):
                ids[number, end - len(part) : end], mask[number, end - len(part) : end] = torch.tensor(part), 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device), "past_key_values": cache}

    @property
    def _pad_id(self) -> int:
        pad: int = self.processor.tokenizer.pad_token_id
        return pad

    @property
    def _image_id(self) -> int:
        image: int = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        return image

    def _words(self, question: Question, answer: str = "") -> list[int]:
        """The question's tokens, its picture one token of them, and those of `answer` behind it."""
        text = self.processor.apply_chat_template([_message(question)], add_generation_prompt=True, tokenize=False) + answer
        # As the processor itself does with a chat: a template that writes the first token wants no second one.
        first = self.processor.tokenizer.bos_token
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=first is None or not text.startswith(first))[
            "input_ids"
        ]
        return ids

    def _seen(self, question: Question, words: list[int]) -> Seen:
        given = self._processed([question])
        ids = given["input_ids"][0].tolist()
        place = words.index(self._image_id)
        after = len(words) - place - 1
        # Special tokens stand around a picture, so the words before and behind it are the same tokens whatever stands there.
        around = ids[:place] + ids[len(ids) - after :]
        assert around == words[:place] + words[place + 1 :], "the processor changed the words around the picture"
        return Seen(tuple(ids[: len(ids) - after]), {name: given[name] for name in given if name not in OF_WORDS})

    def _taken(self, pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pictures` where the model is, and in its precision."""
        return {
            name: tensor.to(self.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in pictures.items()
        }

    def _cache(self, seen: Sequence[Seen], rows: Sequence[int]) -> DynamicCache:
        """Keys and values of the prefixes, padded on the left to the longest, one row for each of `rows`."""
        alike: dict[Any, list[int]] = {}
        for number, one in enumerate(seen):
            shapes = tuple((name, tuple(tensor.shape)) for name, tensor in one.pictures.items())
            alike.setdefault((len(one.prefix), shapes), []).append(number)
        longest = max(len(one.prefix) for one in seen)
        parts: list[list[tuple[Tensor, Tensor]]] = []
        for (length, _), numbers in alike.items():
            group = [seen[number] for number in numbers]
            pictures = {name: torch.cat([one.pictures[name] for one in group]) for name in group[0].pictures}
            cache = DynamicCache()
            ids = torch.tensor([one.prefix for one in group], device=self.device)
            self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True, **self._taken(pictures))
            layers: Any = cache.layers
            pad = (0, 0, longest - length, 0)
            parts.append([(functional.pad(layer.keys, pad), functional.pad(layer.values, pad)) for layer in layers])
        standing = [number for numbers in alike.values() for number in numbers]
        chosen = torch.tensor([standing.index(row) for row in rows], device=self.device)
        merged = DynamicCache()
        for layer, each in enumerate(zip(*parts, strict=True)):
            keys, values = (torch.cat([pair[half] for pair in each])[chosen] for half in (0, 1))
            merged.update(keys, values, layer)
        return merged


def shares_pictures(config: PretrainedConfig) -> bool:
    """Whether a model of this config may go on from copied keys and values.

    Padding stands between a picture and a short question, which a window that counts tokens would see as distance.
    """
    text = config.get_text_config()
    slides = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return config.model_type in SHARING and not slides


def _message(question: Question) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
    if question.image is not None:
        picture = Image.open(io.BytesIO(question.image), formats=FORMATS).convert("RGB")
        content.insert(0, {"type": "image", "image": picture})
    return {"role": "user", "content": content}
