"""What holds for every format in `FORMATS`."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.formats import FORMATS
from stages.formats.draft import UnreadableError

KEYS = st.sampled_from(
    [
        "id",
        "image",
        "image_id",
        "images",
        "type",
        "domain",
        "task_name",
        "conversations",
        "content",
        "from",
        "value",
        "messages",
        "role",
        "text",
        "texts",
        "user",
        "assistant",
        "instance_id",
        "img_path",
        "input_text",
        "options",
        "instruction",
        "output",
        "bytes",
        "path",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", FORMATS)
@given(entry=st.dictionaries(KEYS, ANYTHING))
def test_whatever_an_object_holds_each_row_of_it_is_a_draft_or_refused(name, entry):
    found = list(FORMATS[name].rows(entry, "data/ocr_en.jsonl"))
    assert found
    for one in found:
        with suppress(UnreadableError):
            assert FORMATS[name].read_row(one, {}, "s").turns
