import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from stages.corpus import likeness
from stages.corpus.decoding import phash


def drawing(seed, side=160):
    """A picture that resembles no other: blobs of colour at several scales."""
    draw = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((side, side)), dtype=float)
        for cells in (3, 6, 12)
    ]
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def lettered(seed, text):
    """A drawing with a sign on it that says `text`."""
    picture = drawing(seed)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((40, 60, 120, 110), fill="white")
    pen.text((80, 85), text, fill="black", font_size=40, anchor="mm")
    return picture


def compressed(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def seen(copy, original):
    """(bits, comparison) of one pair."""
    bits = np.bitwise_count(likeness.hashes(original) ^ np.uint64(phash(copy)))
    pair = likeness.reduced(copy, likeness.SHOWN)[None], likeness.reduced(original, likeness.BASE)[None]
    return int(bits.min()), likeness.compared(*pair, np.array([bits.argmin()]))


def test_a_picture_and_its_mirror_image_are_hashed_as_every_picture_is():
    picture = drawing(1)
    made = likeness.hashes(picture)
    assert len(made) == likeness.HASHES == 28
    assert made[0] == phash(picture)
    assert made[14] == phash(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@pytest.mark.parametrize("which", range(likeness.HASHES))
def test_a_hash_of_a_crop_is_that_of_the_picture_cut(which):
    picture = drawing(2, side=400)
    top, height, left, width = likeness.CROP[which % 14] * 400
    cut = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    if which >= 14:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert (int(likeness.hashes(picture)[which]) ^ phash(cut)).bit_count() <= 4


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.floats(0, 0.08),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
    st.floats(0.4, 2),
    st.integers(40, 95),
)
def test_a_copy_scaled_cut_mirrored_and_compressed_at_once_is_a_copy(seed, cut, left, top, mirrored, scale, quality):
    original = drawing(seed)
    side = original.width
    kept = round(side * (1 - cut))
    x, y = round(left * (side - kept)), round(top * (side - kept))
    copy = original.crop((x, y, x + kept, y + kept)).resize((round(scale * kept),) * 2)
    if mirrored:
        copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bits, found = seen(compressed(copy, quality), original)
    assert bits <= 10
    assert found.likeness[0] > 0.95
    assert found.patch[0] < 24
    assert found.tone[0] < 4


def test_different_pictures_are_not_alike():
    bits, found = seen(drawing(1), drawing(2))
    assert bits > 10
    assert found.likeness[0] < 0.7


def test_another_word_on_the_same_sign_is_another_picture_and_the_same_word_is_not():
    bits, other = seen(lettered(1, "NO"), lettered(1, "80"))
    _, same = seen(compressed(lettered(1, "80").resize((120, 120)), 50), lettered(1, "80"))
    assert bits <= 8, "the hashes hardly differ"
    assert other.likeness[0] > 0.8, "nor do the pictures as wholes"
    assert other.patch[0] > 30
    assert same.patch[0] < 20


def test_a_brighter_copy_is_alike_and_its_tone_tells():
    brighter = Image.fromarray((np.asarray(drawing(3)) * 0.8 + 40).astype(np.uint8))
    _, found = seen(brighter, drawing(3))
    assert found.likeness[0] > 0.99
    assert found.patch[0] < 6
    assert found.tone[0] > 10


def test_a_picture_of_one_colour_shows_nothing_and_is_like_nothing():
    grey = Image.new("RGB", (50, 50), "grey")
    assert not likeness.shows_something(grey)
    assert likeness.shows_something(drawing(1))
    for other in (grey, drawing(1)):
        assert seen(grey, other)[1].likeness[0] == 0


def test_several_pairs_at_once_are_judged_as_each_alone():
    copies = [drawing(seed).crop((5, 0, 160, 152)) for seed in range(4)]
    whole = [drawing(seed) for seed in (0, 1, 3, 2)]
    which = np.array([0, 3, 8, 20])
    arrays = [
        np.stack([likeness.reduced(one, side) for one in group])
        for group, side in ((copies, likeness.SHOWN), (whole, likeness.BASE))
    ]
    together = likeness.compared(arrays[0], arrays[1], which)
    for at in range(4):
        alone = likeness.compared(arrays[0][at : at + 1], arrays[1][at : at + 1], which[at : at + 1])
        assert together.likeness[at] == pytest.approx(alone.likeness[0], abs=1e-4)
        assert together.patch[at] == pytest.approx(alone.patch[0], abs=0.1)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bytes_that_are_no_picture_are_refused(content):
    with pytest.raises(ValueError, match="no picture that can be opened"):
        likeness.opened(content)
