import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import example
from stages.corpus.example import Example, Turn

texts = st.text(max_size=20)
examples = st.builds(
    Example,
    source=texts, row=st.integers(0, 2**60), id=texts, task=texts, domain=texts, kind=texts, origin=texts,
    images=st.lists(texts, max_size=3).map(tuple),
    turns=st.lists(st.builds(Turn, role=texts, text=texts), max_size=4).map(tuple),
    templated=st.booleans(), language=texts,
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.lists(examples, max_size=5))
def test_examples_come_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("corpus") / "examples.parquet"
    example.write(path, rows)
    assert example.read(path) == rows
    once = path.read_bytes()
    example.write(path, rows)
    assert path.read_bytes() == once


def test_of_how_a_table_was_put_together_its_file_shows_nothing(tmp_path):
    # Enough of it for several pages a column: that is where a file could show it.
    rows = [
        Example("s", n, str(n), "t", "d", "short", "human", (f"{n:064}",), (Turn("user", f"{n}? " * 9),), False)
        for n in range(30_000)
    ]
    table = example.table_of(rows)
    example.write_table(tmp_path / "whole.parquet", table)
    example.write_table(tmp_path / "parts.parquet", pa.concat_tables([table.slice(at, 7) for at in range(0, len(table), 7)]))
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
