import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.corpus.boxes import Box, padded, parsed

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden" / "svit_bbox"


@pytest.mark.parametrize(
    ("inside", "box"),
    [
        ("0.1, 0.2, 0.3, 0.4", Box(0.1, 0.2, 0.3, 0.4)),
        (" 0,.5 ,1.,1.0 ", Box(0, 0.5, 1, 1)),
        ("-0.1, 0.2, 1e-1, 7", Box(-0.1, 0.2, 0.1, 7)),
        ("0.1., 0.2, 0.3, 0.4", None),
        ("0.1, 0.2, 0.3", None),
        ("0.1, 0.2, 0.3, 0.4, 0.5", None),
        ("0.1, 0.2, 0.3, ", None),
        ("nan, 0.2, 0.3, 0.4", None),
        ("9" * 400 + ", 0.2, 0.3, 0.4", None),
        ("1_0, 0.2, 0.3, 0.4", None),
        ("see 2", None),
        ("", None),
    ],
)
def test_four_plain_numbers_are_a_box_and_nothing_else_is(inside, box):
    assert parsed(inside) == box


def test_a_box_knows_whether_it_lies_in_the_picture_and_which_corner_comes_first():
    assert Box(0, 0, 1, 1).within
    assert not Box(0.5, 0.5, 0.6, 1.001).within
    assert not Box(-0.001, 0.5, 0.6, 1).within
    assert Box(0.5, 0.5, 0.5, 0.5).ordered
    assert not Box(0.5, 0.6, 0.6, 0.5).ordered
    assert not Box(0.6, 0.5, 0.5, 0.6).ordered


@pytest.mark.parametrize(
    ("size", "text", "moved"),
    [
        # A square picture: half pixels go to the even one, 312.5 to 312 and 333.5 to 334.
        (
            (500, 500),
            "[0.25, 0.5, 0.75, 0.625], [0.333, 0.667, 0.5, 0.9]",
            "[0.25, 0.5, 0.75, 0.624], [0.332, 0.668, 0.5, 0.9]",
        ),
        # 125 pixels to add: 62 above, 63 below.
        ((500, 375), "a [0.12, 0.34, 0.56, 0.78].", "a [0.12, 0.38, 0.56, 0.708]."),
        ((375, 500), "a [0.34, 0.12, 0.78, 0.56].", "a [0.38, 0.12, 0.708, 0.56]."),
        ((500, 375), "[0.0, 0.0, 1.0, 1.0]", "[0.0, 0.124, 1.0, 0.874]"),
        ((500, 375), "[0.1., 0.2, 0.3, 0.4] [0.1, 0.2, 0.3] [2]", "[0.1., 0.2, 0.3, 0.4] [0.1, 0.2, 0.3] [2]"),
        # The second box stands where the first one goes to, and is moved once all the same.
        ((100, 50), "[0, 0, 1, 1] [0.0, 0.25, 1.0, 0.75]", "[0.0, 0.25, 1.0, 0.75] [0.0, 0.37, 1.0, 0.63]"),
    ],
)
def test_boxes_follow_their_picture_into_a_square(size, text, moved):
    assert padded(text, *size) == moved


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.integers(1, 2000), st.integers(1, 2000))
def test_a_box_in_the_picture_is_one_in_the_square(sides, width, height):
    x1, y1, x2, y2 = (side / 1000 for side in sides)
    moved = parsed(padded(f"[{min(x1, x2)}, {min(y1, y2)}, {max(x1, x2)}, {max(y1, y2)}]", width, height)[1:-1])
    assert moved is not None
    assert moved.within
    assert moved.ordered


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden cases (../shared) are not on this machine")
def test_padding_is_svits_own_to_the_last_digit():
    rows = json.loads((GOLDEN / "input.json").read_text())
    for row in rows:
        with Image.open(GOLDEN / "images" / f"{row['image_id']}.jpg") as picture:
            size = picture.size
        for block in row["conversations"]:
            for turn in block["content"]:
                turn["value"] = padded(turn["value"], *size)
    assert json.dumps(rows, indent=4) == (GOLDEN / "expected.json").read_text().rstrip("\n")
