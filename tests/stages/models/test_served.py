import base64
import io
import struct
import warnings
import zlib

import pytest
from mlflow.exceptions import MlflowException
from PIL import Image, ImageFile

from stages.corpus import decoding
from stages.models import served
from stages.models.served import picture_of


def drawn(format: str, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format)
    return buffer.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(MlflowException) as refused:
        picture_of(base64.b64encode(content).decode())
    assert refused.value.get_http_status_code() == 400
    return str(refused.value)


def test_the_formats_are_those_of_the_corpus():
    assert served.FORMATS == decoding.FORMATS


def test_the_longest_side_is_the_longest_that_the_contract_may_allow():
    assert served.MAX_SIDE == decoding.MAX_SIDE


@pytest.mark.parametrize("format", served.FORMATS)
def test_a_picture_of_each_format_is_shown(format):
    found = picture_of(base64.b64encode(drawn(format)).decode())
    assert found
    assert (found.mode, found.size) == ("RGB", (4, 4))


@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA", "ICNS"])
def test_a_picture_of_another_format_is_refused(format):
    assert "no whole picture" in refusal(drawn(format))


def test_a_picture_with_a_long_side_is_refused():
    assert "8193 x 1 pixels; a side may have 8192" in refusal(drawn("PNG", (8193, 1)))


@pytest.mark.parametrize("size", [(60_000, 60_000), (16_000, 8_000)])
def test_a_bomb_is_refused_by_its_header_and_never_decoded(monkeypatch, size):
    header = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    with warnings.catch_warnings():
        # The first is refused by Pillow's own limit; of the second Pillow only warns, and it is for ours to refuse.
        warnings.simplefilter("ignore")
        assert "pixels" in refusal(content)
    assert decoded == []


@pytest.mark.parametrize("error", [SyntaxError("broken"), struct.error("broken"), KeyError("broken"), OSError("broken")])
def test_whatever_a_decoder_raises_is_the_fault_of_the_picture(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    assert "broken" in refusal(drawn("PNG"))


def test_a_text_that_is_not_ascii_is_no_base64():
    with pytest.raises(MlflowException, match="must be base64"):
        picture_of("über")
