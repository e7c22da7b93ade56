"""The processor in a folder, whole where its libraries are installed, and without its video half where they are not.

transformers gives the processors of many families a video half, and refuses to load any of such a processor without
torchvision, or SmolVLM's without num2words. Only videos need either, and here only pictures are shown: so the rest is loaded,
as transformers would, and in the half's place stands what its files say of it, which is saved again as it was.

MLflow keeps this file beside a registered model, whose clean process imports it: it imports nothing of this project.
"""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.video_processing_auto import get_video_processor_config
from transformers.utils.hub import PushToHubMixin
from transformers.utils.import_utils import is_torchvision_available

NAMING = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json")
"""The files that may name a processor's class, in the order in which transformers asks them."""
LEFT_OUT = "video_processor"
LOADERS: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
"""For each part that is loaded nevertheless; a processor with yet others is left to transformers."""


class Unloaded(PushToHubMixin):
    """In the place of a video half: keeps its settings, and refuses videos."""

    _auto_class = None
    model_input_names: tuple[str, ...] = ()
    num_frames = fps = None
    """What SmolVLM's processor reads with every conversation, and uses for videos."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def to_dict(self) -> dict[str, Any]:
        """As they stand in the folder: from them transformers makes the whole half where it can."""
        return deepcopy(self.settings)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            ImportError: always.
        """
        raise ImportError("this processor was loaded without its video half, which needs torchvision; show it pictures only")


def processor_in(folder: Path | str) -> ProcessorMixin:
    """The processor in `folder`, without its video half where torchvision is not installed. No remote code is run."""
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind = _kind(Path(folder))
    parts = [] if kind is None else kind.get_attributes()
    if LEFT_OUT in parts:
        module: Any = sys.modules[kind.__module__]
        if vars(module).get("num2words", refuse_to_spell) is None:  # SmolVLM's constructor asks whether it is there
            module.num2words = refuse_to_spell
    if LEFT_OUT not in parts or is_torchvision_available() or not {LEFT_OUT, *LOADERS} >= set(parts):
        processor: ProcessorMixin = AutoProcessor.from_pretrained(folder, **given)
        return processor
    half = Unloaded(get_video_processor_config(folder, local_files_only=True))
    loaded = [half if part == LEFT_OUT else LOADERS[part].from_pretrained(folder, **given) for part in parts]
    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    # Without torchvision not even the class that a video half must have can be named, so none would pass.
    lenient: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    processor = lenient.from_args_and_dict(loaded, settings)
    processor.__class__ = kind  # so that it is pickled, named and saved as any other
    return processor


def refuse_to_spell(*_: Any, **__: Any) -> NoReturn:
    """In the place of num2words, with which SmolVLM spells how many frames a video has.

    Raises:
        ImportError: always.
    """
    raise ImportError("this processor was loaded without num2words, which its videos need; show it pictures only")


def _kind(folder: Path) -> Any:
    """The class of transformers that one of `NAMING` names; None if none does, which AutoProcessor may know to solve."""
    for path in (folder / name for name in NAMING):
        if path.exists() and (named := json.loads(path.read_text(encoding="utf-8")).get("processor_class")):
            kind = getattr(transformers, named, None)
            return kind if isinstance(kind, type) and issubclass(kind, ProcessorMixin) else None
    return None
