import json

from stages.formats.draft import UnreadableError
from stages.formats.json_lines import JsonLines


def written(folder, *lines):
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def read(path, start=None):
    return [str(row) if isinstance(row, UnreadableError) else row for row in JsonLines(path, start)]


def test_a_line_that_is_no_text_is_one_lost_row_that_says_which_byte(tmp_path):
    path = written(tmp_path, '{"id": 1}\n', '{"id": "', b"\xe4", '"}\n', '{"id": "ä"}\n')
    assert read(path) == [{"id": 1}, "not_unicode: byte 8 of line 2 is 0xe4", {"id": "ä"}]


def test_a_mark_of_byte_order_line_ends_of_other_systems_and_a_last_line_without_one_are_no_fault(tmp_path):
    assert read(written(tmp_path, b"\xef\xbb\xbf", '{"id": 1}\r\n', "\r\n \n", '{"id": 2}')) == [{"id": 1}, {"id": 2}]


def test_a_line_that_was_cut_off_is_one_lost_row(tmp_path):
    first, second = read(written(tmp_path, '{"id": 1}\n{"id": "b'))
    assert first == {"id": 1}
    assert second.startswith("not_json: Unterminated string")


def test_reading_goes_on_behind_any_line(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbf", *(f"{json.dumps({'id': number})}\n\n" for number in range(5)), "{broken\n")
    whole = read(path)
    reading = JsonLines(path)
    for number, _ in enumerate(reading):
        assert read(path, reading.place()) == whole[number + 1 :]
