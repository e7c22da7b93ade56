"""What no text of a conversation may hold, wherever it comes from: rows or instructions."""

CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
"""Control characters, but for tab and the ends of lines."""
SPECIAL = r"</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>|<\|[^|<>\s]+\|>|\[/?INST\]|<</?SYS>>"
"""What tokenizers of language models take for their own marks: "</s>" in a question would become a real end of text."""
