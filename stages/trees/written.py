"""What a processor itself writes around the words and pictures of a conversation before it tokenises them.

Most put as many image tokens as a picture wants where the template has its mark, and leave all else alone (`Written`). Two
families write more, and their tokenizers may draw what they write and what stands beside it together into one token. So it is
written here too, before anything is tokenised; the certificate compares it with what the processor sends, and if it ever
wrote something else, no row would be proved.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from stages.corpus.example import IMAGE


def image_token(processor: Any) -> str:
    """What stands for a picture in the words that `processor` is given."""
    token: str = getattr(processor, "image_token", IMAGE)
    return token


class Written:
    """A processor that writes nothing of its own."""

    def __init__(self, processor: Any) -> None:
        self.mark = image_token(processor)
        self.image_token = self.mark
        """What stands in its place in the text that is tokenised, as often as the picture has tokens."""
        self.image_id: int = getattr(processor, "image_token_id", None) or processor.tokenizer.convert_tokens_to_ids(self.mark)

    def text(self, text: str, prompt: bool) -> str:
        """What is tokenised, with one image token a picture, where the template writes `text`; `prompt`: no answer follows."""
        return text

    def picture(self, ids: Sequence[int], among: int) -> Sequence[int]:
        """Of the ids that stand for `among` pictures alone, those that stand for image tokens of `text`.

        Raises:
            ValueError: the processor writes words between the tokens of one picture.
        """
        return ids


class Gemma3(Written):
    """Writes blank lines and tokens for begin and end around each picture; the mark is the begin."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        tokenizer = processor.tokenizer
        self.image_token, self.image_id = tokenizer.image_token, tokenizer.image_token_id
        before, _, behind = processor.full_image_sequence.partition(self.image_token)
        self.around = before + self.image_token + behind.replace(self.image_token, "")

    def text(self, text: str, prompt: bool) -> str:
        """With what stands around each picture."""
        return text.replace(self.mark, self.around)

    def picture(self, ids: Sequence[int], among: int) -> Sequence[int]:
        """The image tokens alone."""
        pieces = sum(is_image for is_image, _ in groupby(id == self.image_id for id in ids))
        if pieces != among:
            raise ValueError(
                f"the processor cuts {among} pictures into {pieces} pieces and writes words between them, which "
                "are not proved; set do_pan_and_scan to false in the processor's files of the base model"
            )
        return [id for id in ids if id == self.image_id]


class PaliGemma(Written):
    """Writes the token for the beginning behind the last picture, and ends every prompt with a line feed."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self.begin: str = processor.tokenizer.bos_token

    def text(self, text: str, prompt: bool) -> str:
        """As `text`, with both; without a picture it is left alone, for the processor takes none such."""
        end = text.rfind(self.mark) + len(self.mark)
        if self.mark not in text:
            return text
        return text[:end] + self.begin + text[end:] + ("\n" if prompt else "")

    def picture(self, ids: Sequence[int], among: int) -> Sequence[int]:
        """The image tokens alone."""
        return [id for id in ids if id == self.image_id]


OWN = {"Gemma3Processor": Gemma3, "PaliGemmaProcessor": PaliGemma}
"""By the name of the processor's class."""


def written(processor: Any) -> Written:
    """How `processor` writes."""
    names = [kind.__name__ for kind in type(processor).__mro__]
    return next((OWN[name] for name in names if name in OWN), Written)(processor)
