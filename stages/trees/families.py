"""Which models can share a prefix exactly, and what stock transformers needs for it.

Tried on tiny random models of each family: the gradient of a tree against that of separate rows. Families that are not
listed are tuned on separate rows, or refused where the loop cannot give them what they need.
"""

import inspect

from transformers import PretrainedConfig, PreTrainedModel

SHARING = {"llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl"}
"""Model types whose image tokens are plain causal tokens, and that pass a 4-D mask and positions through untouched."""
CAUSAL_TEXT = {"llama", "mistral", "qwen2", "qwen3", "phi3"}
"""Language models with one causal mask, if no layer slides a window."""


def unfed(model: PreTrainedModel) -> str | None:
    """None if the loop gives `model` all that it tells apart tokens by, else what is missing, for people to read.

    A model that is not told which tokens are pictures may see them causally in training and both ways in inference.
    """
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        return "it wants token_type_ids, which mark its image tokens, and the loop sends none"
    return None


def why_not_shared(config: PretrainedConfig) -> str | None:
    """None if branches may share a prefix in this model, else the reason, for people to read."""
    if config.model_type not in SHARING:
        return f"{config.model_type} is not among the families proved to share an image prefix exactly"
    text = config.get_text_config()
    if text.model_type not in CAUSAL_TEXT:
        return f"its language model {text.model_type} is not among those proved to share a prefix exactly"
    window = getattr(text, "sliding_window", None)
    if window is not None and getattr(text, "use_sliding_window", True):
        return f"its language model slides a window of {window} tokens, which the tree mask does not cut yet"
    return None
