"""Put the base model into one local folder: built tiny, or a hub or local model at a pinned revision."""

from typing import Self

from pydantic import model_validator

from stages.collection.sentences import sentences
from stages.models import loading
from stages.models.sections import Tiny, check_pinned
from stages.models.tiny import build
from stages.running import command
from stages.running.command import Out
from stages.running.section import Section


class Params(Section):
    """Which model the tuning starts from."""

    model: str
    """`tiny`, a hub id, or a local folder."""
    revision: str | None
    """The commit of a hub id, 40 hex digits; null for tiny and local folders."""
    seed: int
    """Draws the tiny model's first weights."""
    tiny: Tiny
    """Sizes of the tiny model; read only when `model` is tiny."""

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        if self.model != "tiny":
            check_pinned(self.model, self.revision)
        return self


TOKENIZER_TEXTS = 20_000
"""Sentences of the embedded collection that the tiny model's tokenizer learns its words from."""


def base(params: Params, folder: Out) -> None:
    """Write the base model to `folder`, and prove that it loads."""
    if params.model == "tiny":
        build(params.tiny, params.seed, sentences(params.seed, TOKENIZER_TEXTS), folder)
    else:
        loading.fetch(params.model, params.revision, folder)
    loading.load_model(folder)
    loading.load_processor(folder)


if __name__ == "__main__":
    command.run(base)
