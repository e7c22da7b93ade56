import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from stages.corpus.decoding import FORMATS, Look, look


def drawn(format="PNG", size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_picture_of_each_format_has_its_size(format):
    found = look(drawn(format), 100)
    assert (found.whole, found.width, found.height) == (True, 40, 30)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_a_picture_need_not_be_in_three_colours(mode):
    assert look(drawn("PNG", mode=mode), 100).whole


@pytest.mark.parametrize("format", ["BMP", "JPEG", "PNG", "WEBP"])
def test_a_picture_cut_in_its_middle_is_not_whole(format):
    content = drawn(format)
    assert look(content[: len(content) // 2], 100).whole is False


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum():
    content = bytearray(drawn("PNG"))
    content[content.index(b"IDAT") + 20] ^= 1
    assert look(bytes(content), 100).whole is False
    wrong = bytearray(drawn("PNG"))
    wrong[-5 - 12] ^= 1  # the checksum of the last IDAT, the pixels unharmed
    assert look(bytes(wrong), 100).whole is False


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_not_whole(content):
    assert look(content, 100) == Look(False, None, None, None)


def bomb(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_bomb_is_known_by_its_header_and_never_decoded():
    assert look(bomb(60_000), 8192) == Look(None, 60_000, 60_000, None)


def test_pillows_own_switches_are_left_as_they_were():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    look(drawn(), 100)
    look(b"", 100)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_damage_to_a_picture_raises(data):
    content = bytearray(drawn(data.draw(st.sampled_from(FORMATS))))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    assert isinstance(look(bytes(content), 4096), Look)
