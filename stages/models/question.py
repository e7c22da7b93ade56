"""What a model is asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with its picture's bytes (None: a question about no picture)."""

    image: bytes | None
    text: str
    """Without the `<image>` mark."""
    max_new_tokens: int
    """Where the answer is cut if the model does not end it."""
    options: tuple[str, ...] = ()
    """If there are any, the answer is the likeliest of them, and nothing is generated."""
