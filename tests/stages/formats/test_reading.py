import json
import os
import shutil

import pyarrow as pa
import pytest

from stages.formats import FORMATS, reading
from stages.formats.reading import Reader
from stages.running.memo import Memo


def talk(number, **more):
    said = [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": "A number."}]
    return {"id": str(number), "conversations": said, **more}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A function that writes rows to a file and reads them as a new run would: their ids, and how many had to be read anew."""
    monkeypatch.setattr(reading, "ENTRIES", 10)
    monkeypatch.setattr(reading, "WORTH_KEEPING", 100)
    anew = []
    draft = Reader.draft
    monkeypatch.setattr(Reader, "draft", lambda self, row: anew.append(row) or draft(self, row))

    def run(rows, name="rows.json", excluded=frozenset()):
        path = tmp_path / name
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if name.endswith("l") else "[" + ",\n".join(lines) + "]")
        anew.clear()
        with Memo("reading", sorted(excluded), folder=tmp_path / "memo") as memo:
            blocks = list(Reader(FORMATS["llava"], {}, "s", excluded).blocks(path, name, memo))
        table = pa.concat_tables([block.rows for block in blocks])
        assert table.schema == reading.SCHEMA
        return [int(id) for id in table["id"].to_pylist()], len(anew)

    return run


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_of_a_file_that_grew_only_what_is_new_is_read(read, name):
    rows = [talk(number) for number in range(35)]
    assert read(rows, name) == (list(range(35)), 35)
    assert read(rows, name) == (list(range(35)), 0)
    grown = [*rows, *(talk(number) for number in range(35, 42))]
    # The last block was not full: the new rows go on in it.
    assert read(grown, name) == (list(range(42)), 12)
    assert read(grown, name) == (list(range(42)), 0)
    assert read(rows[:20], name)[0] == list(range(20))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_row_that_changed_is_read_again_with_those_of_its_block(read, name):
    rows = [talk(number) for number in range(30)]
    read(rows, name)
    rows[15] = talk(77)
    assert read(rows, name) == ([*range(15), 77, *range(16, 30)], 10)
    # What stands behind a row that has another length now begins elsewhere.
    rows[15] = talk(7777)
    assert read(rows, name) == ([*range(15), 7777, *range(16, 30)], 20)


def test_what_a_row_is_read_with_counts_like_the_row(read):
    rows = [talk(number) for number in range(20)]
    assert read(rows)[1] == 20
    assert read(rows, excluded=frozenset("7"))[1] == 20


def test_a_number_that_grew_a_digit_at_a_blocks_end_is_another_row(tmp_path, read):
    path = tmp_path / "rows.json"
    reader = Reader(FORMATS["llava"], {}, "s", frozenset())
    for last in ("1", "12"):
        path.write_text("[" + ",".join([*(json.dumps(talk(number)) for number in range(9)), last, "5"]) + "]")
        with Memo("digits", folder=tmp_path / "memo") as memo:
            assert [len(block.rows) for block in reader.blocks(path, "rows.json", memo)] == [10, 1]


def test_blocks_with_pictures_of_their_own_are_cut_by_their_size_and_not_kept(tmp_path, read, monkeypatch):
    monkeypatch.setattr(reading, "BYTES", 3)
    url = "data:image/png;base64,YWI="
    rows = [talk(number, image=url) for number in range(5)]
    assert read(rows, "rows.jsonl") == (list(range(5)), 5)
    assert read(rows, "rows.jsonl") == (list(range(5)), 5)
    sizes = [len(block.brought) for block in Reader(FORMATS["llava"], {}, "s", frozenset()).blocks_of(iter(rows), "rows.jsonl")]
    assert sizes == [2, 2, 1]


def test_a_file_of_no_rows_has_a_block_without_rows(read):
    assert read([]) == ([], 0)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_of_a_file_that_is_written_to_while_it_is_read_nothing_is_kept(tmp_path, read, monkeypatch, name):
    rows, others = [talk(number) for number in range(10, 20)], [talk(number) for number in range(20, 30)]
    path = tmp_path / name
    read(others, name)
    changed = path.read_bytes()  # of the same length
    shutil.rmtree(tmp_path / "memo")
    read_block = Reader._next_block

    def writing_meanwhile(self, entries, file):
        made = read_block(self, entries, file)
        before = path.stat()
        path.write_bytes(changed)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        return made

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Reader, "_next_block", writing_meanwhile)
        read(rows, name)
    assert read(others, name) == (list(range(20, 30)), 10)
