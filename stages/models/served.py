"""The tuned model as MLflow serves it: a picture and a question in, an answer out.

MLflow keeps this file beside the weights and runs it where the model is loaded ("models from code"), where this project
may be absent: so it imports nothing of it, only processors.py, which lies beside it there, and what the registered version
lists as its requirements.
"""

import base64
import io
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image
from transformers import AutoModelForImageTextToText

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats a picture may have, those of `stages.corpus.decoding`. Pillow knows more, and some of those start programs."""
MAX_SIDE = 8192
"""Pixels a side of a picture may have; a bomb is known by its header, and not decoded."""


class Served(PythonModel):
    """Answers greedily, each question as if it had been asked alone."""

    def load_context(self, context: Any) -> None:
        """Load the transformers folder among the version's artifacts, onto a GPU where there is one."""
        # A file that MLflow keeps beside this one too (`package.CODE`), and finds only where the model is loaded.
        from processors import processor_in

        folder = context.artifacts["model"]
        dtype = PRECISIONS[(context.model_config or {}).get("precision", "fp32")]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = model.to(self.device).eval()
        self.processor = processor_in(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A frame with the column `answer`, a row for each row of `model_input` (columns `image_b64`, `question`).

        `image_b64` is a picture as base64 or a data URL; empty for a question about no picture. Addresses and paths are
        refused: a served model fetches nothing.
        """
        limit = int((params or {})["max_new_tokens"])
        rows = zip(model_input["image_b64"], model_input["question"], strict=True)
        return pd.DataFrame({"answer": [self._answer(picture_of(image), question, limit) for image, question in rows]})

    @torch.inference_mode()
    def _answer(self, picture: Image.Image | None, question: str, limit: int) -> str:
        if not question.strip():
            raise MlflowException.invalid_parameter_value("question is empty; ask something")
        image_token = getattr(self.processor, "image_token", "<image>")
        if image_token in question:
            raise MlflowException.invalid_parameter_value(
                f"question must not contain {image_token}: the picture goes into image_b64 and is shown before the question"
            )
        content: list[dict[str, Any]] = [] if picture is None else [{"type": "image", "image": picture}]
        content.append({"type": "text", "text": question})
        inputs = self.processor.apply_chat_template(
            [[{"role": "user", "content": content}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device, dtype=self.model.dtype)
        generated = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        new = generated[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(new, skip_special_tokens=True)[0]).strip()


def picture_of(image: str | None) -> Image.Image | None:
    """The picture in a base64 text or data URL, None if there is none.

    Raises:
        MlflowException: it is no base64, no picture, or one too large; over HTTP that is a 400 with this text.
    """
    if not image:
        return None
    text = image.partition(",")[2] if image.startswith("data:") else image
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # binascii.Error is one; letters that are not ASCII are another
        raise MlflowException.invalid_parameter_value(
            f"image_b64 must be base64 or a data URL of a picture file, got {image[:40]!r}: {error}"
        ) from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if max(picture.size) > MAX_SIDE:
                raise ValueError(f"{picture.width} x {picture.height} pixels; a side may have {MAX_SIDE}")
            return picture.convert("RGB")
    except Exception as error:
        # Pillow's decoders raise nearly everything on broken files: OSError, SyntaxError, struct.error, ValueError, …
        raise MlflowException.invalid_parameter_value(
            f"image_b64 holds {len(content)} bytes that are no whole picture of a known format and size: {error}"
        ) from error


set_model(Served())
