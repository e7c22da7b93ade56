"""A model in one local folder: brought there from the hub or another folder, and loaded from it, always without risk.

Only safetensors, never a pickle; never code that came with the weights; never a revision that can move.
"""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import logging

from stages.models.processors import processor_in
from stages.models.sections import check_pinned

WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""The files of a model folder that are needed; pickles, code and other frameworks' weights are not."""

logging.disable_progress_bar()


def fetch(model: str, revision: str | None, folder: Path) -> None:
    """Copy `model`, a local folder or a hub id at `revision`, to `folder`.

    Raises:
        ValueError: a hub id without a commit of 40 hex digits, or a model without safetensors.
    """
    local = Path(model)
    if local.is_dir():
        folder.mkdir(parents=True)
        for pattern in WANTED:
            for path in sorted(local.glob(pattern)):
                shutil.copyfile(path, folder / path.name)
    else:
        check_pinned(model, revision)
        # Imported here: a local or tiny model never needs the hub's client.
        from huggingface_hub import snapshot_download

        snapshot_download(model, revision=revision, local_dir=folder, allow_patterns=list(WANTED))
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"base.model {model!r} has no *.safetensors file; other weight formats can run code when they are "
            "opened, so they are refused: convert the model, or choose a revision that has safetensors"
        )


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    attention: str | dict[str, str] | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """The model in `folder`.

    `attention` is one of transformers' implementations (`sdpa`, `eager`), or one for each part; None is the model's own choice.
    `quantization` says which of its layers are held in fewer bits (`quantized.four_bits`).
    """
    given = {"attn_implementation": attention, "quantization_config": quantization}
    kwargs = {name: value for name, value in given.items() if value is not None}
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False, **kwargs
    )


def load_stops(folder: Path) -> frozenset[int]:
    """The token ids on which the model in `folder` stops generating; none if its files name none."""
    if (folder / "generation_config.json").exists():
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:  # as `load_model` has it
        config = GenerationConfig.from_model_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    stops = config.eos_token_id
    return frozenset([stops] if isinstance(stops, int) else stops or [])


def load_processor(folder: Path) -> ProcessorMixin:
    """The processor (tokenizer, image processor, chat template) in `folder`; its video half only where torchvision is there.

    Raises:
        ValueError: it has no chat template, without which no conversation can be written.
    """
    processor = processor_in(folder)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"the processor of the base model has no chat template; put chat_template.jinja into {folder}")
    return processor
