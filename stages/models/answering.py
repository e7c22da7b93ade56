"""A model answers questions about pictures: greedily, in batches, each answer as if it had been asked alone."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stages.corpus.decoding import FORMATS
from stages.models.device import resolve_device
from stages.models.loading import load_model, load_processor
from stages.running.progress import progress


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with its picture's bytes (None: a question about no picture)."""

    image: bytes | None
    text: str
    """Without the `<image>` mark."""
    max_new_tokens: int
    """Where the answer is cut if the model does not end it."""


class Answerer:
    """A model in a folder, ready to answer."""

    def __init__(self, folder: Path, device: str, threads: int, precision: str, batch: int) -> None:
        """Load it. `device` auto, cpu or cuda; `threads` CPU threads; `precision` fp32 or bf16; `batch` questions at once."""
        torch.set_num_threads(threads)
        self.device = resolve_device(device)
        self.batch = batch
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model: Any = load_model(folder, dtype).eval()
        self.model.to(self.device)
        self.processor: Any = load_processor(folder)
        # Left: the last token of every row of a batch is then the one the answer follows.
        self.processor.tokenizer.padding_side = "left"

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """The answers, in the order of the questions, without surrounding white space."""
        order = sorted(
            range(len(questions)),
            key=lambda index: (questions[index].max_new_tokens, questions[index].image is None, len(questions[index].text)),
        )
        answers = [""] * len(questions)
        batches = _batches([(index, questions[index]) for index in order], self.batch)
        with progress(batches, "answer", "batch", total=len(batches)) as bar:
            for batch in bar:
                texts = self._generate([question for _, question in batch])
                for (index, _), text in zip(batch, texts, strict=True):
                    answers[index] = text
        return answers

    @torch.inference_mode()
    def _generate(self, questions: Sequence[Question]) -> list[str]:
        inputs = self.processor.apply_chat_template(
            [[_message(question)] for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        ).to(self.device, dtype=self.model.dtype)
        generated = self.model.generate(
            **inputs, max_new_tokens=questions[0].max_new_tokens, do_sample=False, num_beams=1, use_cache=True
        )
        new = generated[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def _message(question: Question) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
    if question.image is not None:
        picture = Image.open(io.BytesIO(question.image), formats=FORMATS).convert("RGB")
        content.insert(0, {"type": "image", "image": picture})
    return {"role": "user", "content": content}


def _batches(questions: list[tuple[int, Question]], size: int) -> list[list[tuple[int, Question]]]:
    """Runs of at most `size` neighbours that are cut at the same length and all have a picture, or none."""
    batches: list[list[tuple[int, Question]]] = []
    for index, question in questions:
        if batches and len(batches[-1]) < size:
            last = batches[-1][-1][1]
            if (last.max_new_tokens, last.image is None) == (question.max_new_tokens, question.image is None):
                batches[-1].append((index, question))
                continue
        batches.append([(index, question)])
    return batches
