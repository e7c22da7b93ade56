"""A model answers questions about pictures: greedily, in batches, each answer as if it had been asked alone."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stages.corpus.decoding import FORMATS
from stages.models.device import resolve_device
from stages.models.loading import load_model, load_processor
from stages.models.question import Question


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

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """The answers to a batch of `asking.batched`, without surrounding white space."""
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
