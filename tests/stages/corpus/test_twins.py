import hashlib
import io
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from stages.corpus import twins
from stages.corpus.images import ImageWriter
from stages.running.memo import Memo


def saved(image, form="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def scene(seed):
    """A picture of a few large things before a background."""
    dice = random.Random(seed)
    image = Image.new("RGB", (160, 120), tuple(dice.randbytes(3)))
    for _ in range(6):
        x, y = dice.randrange(130), dice.randrange(90)
        ImageDraw.Draw(image).rectangle(
            (x, y, x + dice.randrange(20, 70), y + dice.randrange(20, 60)), tuple(dice.randbytes(3))
        )
    return image


COPIES = {
    "half": lambda image: saved(image.resize((80, 60), Image.Resampling.BICUBIC)),
    "double": lambda image: saved(image.resize((320, 240), Image.Resampling.BICUBIC)),
    "jpeg": lambda image: saved(image, "JPEG", quality=75),
    "poor jpeg": lambda image: saved(image, "JPEG", quality=50),
    "brighter": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.05)),
    "webp": lambda image: saved(image, "WEBP", quality=80),
}


def found(folder, pictures, distance=4, stores=1):
    """For each picture the first one that shows what it shows, and how many were decoded."""
    for number in range(stores):
        with ImageWriter(folder / f"store-{number}", shard_mib=1) as store:
            for content in pictures[number::stores]:
                store.add(content)
    names = [hashlib.sha256(content).hexdigest() for content in pictures]
    once = sorted(set(names))
    with Memo("small", folder=folder / "memo") as memo:
        made = twins.twins([folder / f"store-{number}" for number in range(stores)], pa.array(once), distance, memo)
    group = [made.alike[once.index(name)] for name in names]
    return [group.index(one) for one in group], made.compared


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_nothing_else(tmp_path, copy):
    scenes = [scene(seed) for seed in range(20)]
    contents, _ = found(tmp_path, [saved(image) for image in scenes] + [COPIES[copy](image) for image in scenes], distance=8)
    assert contents[:20] == list(range(20))
    assert sum(contents[20 + number] == number for number in range(20)) >= 19, "phash itself may differ in more bits"
    assert all(contents[20 + number] in (number, 20 + number) for number in range(20))


def test_equal_hashes_do_not_make_twins_of_pictures_that_show_different_things(tmp_path):
    def disc(colour, back="white"):
        image = Image.new("RGB", (96, 96), back)
        ImageDraw.Draw(image).ellipse((20, 20, 70, 70), colour)
        return image

    # A hash knows no colour, and of a tall picture no more than of a broad one.
    pictures = [disc("red"), disc("green"), disc("blue"), disc("blue").resize((96, 48))]
    contents, compared = found(tmp_path, [saved(image) for image in pictures])
    assert contents == [0, 1, 2, 3]
    assert compared == 4


def test_pages_that_are_nearly_white_are_told_apart(tmp_path):
    def page(seed):
        image = Image.new("L", (200, 260), 255)
        for line in range(20, 240, 12):
            shade = random.Random(f"{seed}|{line}").randrange(200, 256)
            ImageDraw.Draw(image).rectangle((20, line, 60 + shade // 2, line + 3), shade)
        return image

    pages = [twins.small(saved(page(seed))) for seed in range(8)]
    again = np.stack([twins.small(saved(page(seed), "JPEG", quality=75)) for seed in range(8)])
    for number, one in enumerate(pages):
        assert np.flatnonzero(twins.same(one, again)).tolist() == [number]


def test_blank_pictures_show_nothing_that_could_be_the_same(tmp_path):
    blank = [saved(Image.new("RGB", (96, 96), (shade, 200, 200))) for shade in (200, 201, 202)]
    assert found(tmp_path, blank)[0] == [0, 1, 2]


def test_what_was_made_small_once_is_not_decoded_again(tmp_path, monkeypatch):
    pictures = [make(scene(1)) for make in COPIES.values()]
    first = found(tmp_path, pictures, stores=2)
    assert len(set(first[0])) == 1
    monkeypatch.setattr(twins, "small", lambda content: pytest.fail("decoded"))
    assert found(tmp_path, pictures, stores=2) == first


def test_a_picture_that_no_store_has_or_that_is_broken_is_like_no_other(tmp_path):
    with ImageWriter(tmp_path / "store", shard_mib=1) as store:
        names = sorted(["gone", store.add(b"no picture"), store.add(b"nor this")])
    with Memo("small", folder=tmp_path / "memo") as memo:
        made = twins.twins([tmp_path / "store"], pa.array(names), 4, memo)
    assert (made.alike.tolist(), made.phash.tolist(), made.compared) == ([0, 1, 2], [0, 0, 0], 0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=25),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_contents_are_the_twins_and_theirs(pictures, near):
    """Pictures as (class of hash, grey): twins if the classes are near and the greys at most one step apart."""
    joined = sorted({(one, one) for one in range(4)} | near | {(other, one) for one, other in near})
    left, right = np.array(joined).T
    classes = np.array([one for one, _ in pictures], dtype=np.int64)
    greys = np.array([grey for _, grey in pictures], dtype=np.uint8)
    base = np.random.default_rng(17).integers(0, 100, (12, 12, 3)).astype(np.uint8)
    smalls = base + 20 * greys[:, None, None, None]

    expected = list(range(len(pictures)))
    for _ in pictures:
        for i, (one, grey) in enumerate(pictures):
            for j, (other, shade) in enumerate(pictures):
                if (one, other) in joined and abs(grey - shade) <= 1:
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert twins._contents(classes, left, right, smalls, np.zeros(len(pictures))).tolist() == expected
