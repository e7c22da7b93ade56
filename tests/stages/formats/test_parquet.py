import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats import parquet as module
from stages.formats.annotations import read_rows
from stages.formats.draft import UnreadableError

ROWS = [{"id": str(number), "images": [{"bytes": bytes([number]), "path": None}], "texts": None} for number in range(40)]


def written(folder, rows, **change):
    path = folder / "rows.parquet"
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path, **change)
    return path


@pytest.mark.parametrize("rows_a_group", [1, 7, 100])
def test_rows_come_whole_and_in_the_order_of_the_file(tmp_path, rows_a_group):
    assert list(read_rows(written(tmp_path, ROWS, row_group_size=rows_a_group))) == ROWS


def test_a_file_of_no_rows_has_none(tmp_path):
    assert list(read_rows(written(tmp_path, pa.table({"id": pa.array([], pa.string())})))) == []


def test_a_row_whose_text_is_no_text_ends_alone(tmp_path):
    blocks = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    rows = list(read_rows(written(tmp_path, pa.table({"id": blocks}))))
    assert (rows[0], rows[2]) == ({"id": "good"}, {"id": "fine"})
    assert isinstance(rows[1], UnreadableError)
    assert str(rows[1]).startswith("not_unicode: ")


def test_a_row_with_a_date_that_python_cannot_hold_ends_alone(tmp_path):
    dates = pa.array([0, 2**62], pa.timestamp("us"))
    rows = list(read_rows(written(tmp_path, pa.table({"date": dates}))))
    assert isinstance(rows[0], dict)
    assert str(rows[1]).startswith("not_readable: ")


@pytest.mark.parametrize("written_as", [{"row_group_size": 8}, {"write_batch_size": 1}], ids=["groups", "pages"])
def test_of_a_file_of_pictures_only_a_few_are_held_at_once(tmp_path, written_as):
    pictures = pa.table({"bytes": pa.array([bytes([number]) * 2**20 for number in range(64)])})
    path = written(tmp_path, pictures, compression="none", use_dictionary=False, **written_as)
    del pictures
    most = max(pa.total_allocated_bytes() for _ in read_rows(path))
    assert most < 2 * module.ROWS_AT_ONCE * 2**20


@pytest.mark.parametrize("content", [b"", b"PAR1", b"[]", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path, content):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.parquet is no whole Parquet file: .*; copy or download it again"):
        list(read_rows(tmp_path / "rows.parquet"))


def test_a_missing_file_names_the_section_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"params\.yaml, section ingest"):
        list(read_rows(tmp_path / "rows.parquet"))


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_wherever_a_file_is_cut_it_is_refused_and_never_read_short(tmp_path_factory, share):
    path = written(tmp_path_factory.mktemp("cut"), ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"rows\.parquet is no whole Parquet file"):
        list(read_rows(path))
