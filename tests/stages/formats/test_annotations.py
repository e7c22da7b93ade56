import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats.annotations import read_rows, read_tasks
from stages.formats.draft import UnreadableError

ROWS = [{"id": "a"}, {"id": "ü"}, 3, None]


def written(folder, text, name="rows.json"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_rows_come_in_the_order_of_the_file_whatever_they_are(tmp_path):
    assert list(read_rows(written(tmp_path, json.dumps(ROWS)))) == ROWS
    assert list(read_rows(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(ROWS).encode()))) == ROWS


def test_the_sites_groups_of_rows_are_laid_end_to_end(tmp_path):
    assert list(read_rows(written(tmp_path, json.dumps({"data": [[{"id": 1}], [{"id": 2}, {"id": 3}]]})))) == [
        {"id": 1}, {"id": 2}, {"id": 3},
    ]  # fmt: skip


def test_a_broken_line_of_json_lines_is_a_row_that_could_not_be_read(tmp_path):
    rows = list(read_rows(written(tmp_path, '{"id": 1}\n{"id": \n\n{"id": 3}\n', "rows.jsonl")))
    assert rows[0] == {"id": 1}
    assert isinstance(rows[1], UnreadableError)
    assert str(rows[1]).startswith("not_json: Expecting value")
    assert rows[2] == {"id": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "a"}, {"id": "b', "line 1, column 22 (character 21 of 23)"),
        ('[{"id": "a"},\n', "where the file ends: it looks cut off"),
        ("", "where the file ends: it looks cut off"),
        ('{"id": "a"}', "must hold a JSON list of rows, got an object"),
        ("[" * 100_000, "cannot be read as JSON"),
        (b"[\xff]", "is not UTF-8 text: byte 1 is 0xff"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"rows\.json") as refused:
        list(read_rows(written(tmp_path, text)))
    assert message in str(refused.value)


def test_a_missing_file_names_the_section_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"params\.yaml, section ingest"):
        list(read_rows(tmp_path / "nothing.json"))


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=500))
def test_wherever_a_file_is_cut_it_is_refused_and_never_read_short(tmp_path_factory, cut):
    whole = json.dumps([{"id": number, "value": "ä"} for number in range(12)])
    path = written(tmp_path_factory.mktemp("cut"), whole.encode()[: min(cut, len(whole.encode()) - 1)])
    with pytest.raises(ValueError, match=r"rows\.json"):
        list(read_rows(path))


GOOD = {"domain": "colours", "kind": "short", "instructions": ["Name it."]}


def test_instructions_are_read_per_task(tmp_path):
    tasks = read_tasks(written(tmp_path, json.dumps({"scenes+colour": GOOD})))
    assert tasks["scenes+colour"].instructions == ("Name it.",)


@pytest.mark.parametrize(
    "entry",
    [None, [], {**GOOD, "instructions": []}, {**GOOD, "instructions": [" "]}, {**GOOD, "kind": 3}, {**GOOD, "domain": None}],
)
def test_a_task_without_instructions_is_refused_by_its_name(tmp_path, entry):
    with pytest.raises(ValueError, match=r"task 'scenes\+colour' must be"):
        read_tasks(written(tmp_path, json.dumps({"scenes+colour": entry})))


@pytest.mark.parametrize("text", ["Name it.</s>", "<image> Name it.", "Name\0 it.", "Name it \ud83d"])
def test_an_instruction_with_a_mark_of_the_models_own_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"an instruction of task 'scenes\+colour' holds"):
        read_tasks(written(tmp_path, json.dumps({"scenes+colour": {**GOOD, "instructions": ["Name it.", text]}})))
