import io

import pytest
from PIL import Image, UnidentifiedImageError

from stages.models.answering import _message
from stages.models.question import Question


def test_a_picture_of_a_format_that_the_corpus_refuses_is_not_opened():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PCX")
    with pytest.raises(UnidentifiedImageError):
        _message(Question(buffer.getvalue(), "Is it round?", 3))
