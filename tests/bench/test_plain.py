"""The bench against the plain way plants damage that is damage, and counts what either way found."""

import io
import json

import pytest
from PIL import Image

from bench import plain
from stages.corpus.decoding import MAX_SIDE, look


def test_a_drawn_picture_is_whole_and_as_large_as_said():
    content = plain.picture(1)
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.size == (640, 480)
        shown.load()
    assert 75_000 < len(content) < 85_000


@pytest.mark.parametrize("kind", plain.DAMAGE)
def test_each_kind_of_damage_changes_its_row_or_its_picture(kind, tmp_path):
    (tmp_path / "0.jpg").write_bytes(plain.picture(0))
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    rows = [{"id": str(number), "image": "0.jpg", "conversations": json.loads(json.dumps(turns))} for number in range(4)]
    before = json.dumps(rows[3])

    plain.damage(kind, rows, 3, tmp_path)

    assert json.dumps(rows[3]) != before or kind == "seen before"
    if kind == "seen before":
        assert {**rows[3], "id": ""} == {**rows[1], "id": ""}
    if kind == "zeroed":
        assert look((tmp_path / rows[3]["image"]).read_bytes(), MAX_SIDE).whole is False
    if kind in ("cut off", "html"):
        with pytest.raises(OSError, match=r"truncated|cannot identify"), Image.open(tmp_path / rows[3]["image"]) as shown:
            shown.load()
