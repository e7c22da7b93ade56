import hashlib

import pyarrow as pa
import pytest

from stages.corpus.images import ImageWriter
from stages.corpus.pictures import read_images
from stages.formats import FORMATS
from stages.formats.draft import UnreadableError
from stages.formats.pictures import Pictures
from stages.formats.reading import Reader
from stages.formats.shelf import Shelf


class Few(Pictures):
    """A source of three pictures, which notes what is asked of it."""

    def __init__(self, png):
        self.contents = {colour: png(colour) for colour in ("red", "green", "blue")}
        self.asked = []

    def read(self, name):
        self.asked.append(name)
        if name not in self.contents:
            raise UnreadableError(f"missing_image: {name}")
        return self.contents[name]

    def stamp(self, name):
        return None


def rows(*images):
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A square."}]
    reader = Reader(FORMATS["llava"], {}, "s", frozenset())
    (block,) = reader.blocks_of(iter([{"image": list(one), "conversations": talk} for one in images]), "rows.json")
    return block


@pytest.fixture
def placed(tmp_path, png):
    """A function that places blocks one after the other: the rows, what was asked of the source, what the store has."""

    def place(*blocks):
        few = Few(png)
        with ImageWriter(tmp_path / "out", 1) as store:
            shelf = Shelf(few, store)
            tables = [shelf.place(block.rows, block.brought) for block in blocks]
        names = {content: name for name, content in few.contents.items()}
        return pa.concat_tables(tables), few.asked, [names.get(one, one) for _, one in read_images([tmp_path / "out"])]

    return place


def test_names_become_digests_in_the_rows_order_and_pictures_are_stored_once(placed, png):
    table, asked, stored = placed(rows(["blue"], [], ["red", "blue"]), rows(["blue"], ["green"]))
    digest = {colour: hashlib.sha256(png(colour)).hexdigest() for colour in ("red", "green", "blue")}
    assert table["images"].to_pylist() == [
        [digest["blue"]], [], [digest["red"], digest["blue"]], [digest["blue"]], [digest["green"]],
    ]  # fmt: skip
    assert stored == ["blue", "red", "green"]
    # Pictures of a row of several are read once to see whether all are there, and once to be stored.
    assert sorted(asked[:-1]) == ["blue", "blue", "red", "red"]
    assert asked[-1] == "green"


def test_a_row_that_lacks_a_picture_ends_and_leaves_none_that_no_other_row_shows(placed):
    table, asked, stored = placed(
        rows(["red", "gone"], ["green", "gone"], ["gone"], ["green"]), rows(["gone"], ["lost", "red"])
    )
    assert table["state"].to_pylist() == ["unreadable"] * 3 + ["on"] + ["unreadable"] * 2
    assert table["reason"].to_pylist() == ["missing_image: gone"] * 3 + [""] + ["missing_image: gone", "missing_image: lost"]
    assert stored == ["green"]
    assert asked.count("gone") == 1


def test_what_is_stored_does_not_hang_on_where_a_block_ends(placed):
    images = [["red", "gone"], ["blue", "red"], ["gone"], ["green"], ["blue"]]
    _, _, together = placed(rows(*images))
    _, _, apart = placed(*(rows(one) for one in images))
    assert together == apart == ["blue", "red", "green"]


def test_pictures_that_rows_bring_along_are_stored_only_with_those_they_name(placed):
    one, other = ([{"bytes": content, "path": "red"}] for content in (b"one", b"other"))
    table, _, stored = placed(rows([*one, "gone"], [*other, "red"], other))
    assert table["state"].to_pylist() == ["unreadable", "on", "on"]
    assert stored == [b"other", "red"]
    assert table["images"].to_pylist()[1][0] == hashlib.sha256(b"other").hexdigest()


def test_a_slice_of_rows_is_placed_like_the_rows_themselves(placed):
    block = rows(["red"], ["blue", "green"], ["gone"])
    whole, _, _ = placed(block)
    first, _, _ = placed(type(block)(block.rows.slice(1), {}))
    assert first.to_pylist() == whole.to_pylist()[1:]
