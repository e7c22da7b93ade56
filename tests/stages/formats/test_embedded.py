import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus.example import Turn
from stages.formats import embedded as module
from stages.formats import pictures
from stages.formats.draft import UnreadableError
from stages.formats.embedded import marked, pictures_in


def url(content, head="data:image/png;base64"):
    return f"{head},{base64.b64encode(content).decode()}"


def refusal(value):
    with pytest.raises(UnreadableError) as refused:
        pictures_in({"image": value}, "image")
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "pictures"),
    [
        (None, ()),
        ([], ()),
        ("a.png", ("a.png",)),
        (["a.png", "b.png"], ("a.png", "b.png")),
        (b"one", (b"one",)),
        ({"bytes": b"one", "path": None}, (b"one",)),
        ({"bytes": b"one", "path": "long/gone.png"}, (b"one",)),
        ({"bytes": None, "path": "a.png"}, ("a.png",)),
        ({"path": "a.png"}, ("a.png",)),
        (url(b"one"), (b"one",)),
        (url(b"one", "DATA:;Base64"), (b"one",)),
        (["a.png", b"one", url(b"two")], ("a.png", b"one", b"two")),
        ("data:image/png;base64,b2\n5s\r\naW4=", (b"onlin",)),
    ],
)
def test_a_picture_comes_by_name_or_in_one_of_three_forms(value, pictures):
    assert pictures_in({"image": value}, "image") == pictures


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "wrong_type: image holds int, wanted str"),
        ([["a.png"]], "wrong_type: image holds list, wanted str"),
        ({"url": "a.png"}, "wrong_type: image holds dict, wanted str"),
        ({"bytes": None, "path": None}, "missing_image: image has neither bytes nor a path"),
        ({"bytes": "b25l"}, "wrong_type: image.bytes is str, wanted bytes"),
        ({"path": b"a.png"}, "wrong_type: image.path is bytes, wanted str"),
        (b"", "empty_image: image"),
        (url(b""), "empty_image: image"),
        ("data:image/png;base64,b25", "broken_data_url: image: Incorrect padding"),
        ("data:image/png,%89PNG", "broken_data_url: image does not begin as one of base64: 'data:image/png'"),
        ("data:", "broken_data_url: image does not begin as one of base64: 'data:'"),
    ],
)
def test_a_broken_picture_is_refused_with_its_field(value, reason):
    assert refusal(value) == reason


@pytest.mark.parametrize("letter", ["*", "-", "ü", "\0"])
def test_a_letter_that_base64_does_not_have_is_never_passed_over(letter):
    assert refusal(f"data:image/png;base64,b25{letter}l").startswith("broken_data_url: image: ")


def test_too_large_a_picture_is_refused_and_too_large_a_url_not_even_decoded(monkeypatch):
    for one in (module, pictures):
        monkeypatch.setattr(one, "MAX_BYTES", 2**20)
    assert refusal(bytes(2**20 + 1)) == "image_too_large: image has more than 1 MiB"
    assert refusal(url(bytes(2**20 + 1))) == "image_too_large: image has more than 1 MiB"
    assert pictures_in({"image": url(bytes(2**20))}, "image") == (bytes(2**20),)
    monkeypatch.setattr(module.base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    assert refusal(url(bytes(2**21))) == "image_too_large: the data URL in image has more than 1 MiB"


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=99))
def test_what_is_written_as_a_data_url_is_read_as_it_was(content):
    assert pictures_in({"image": url(content)}, "image") == (content,)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_data_url_however_strange_is_taken_for_a_name(tail):
    try:
        (found,) = pictures_in({"image": "data:" + tail}, "image")
    except UnreadableError as error:
        found = str(error).split(":")[0].encode()
        tail = ""
    assert isinstance(found, bytes)
    assert tail or found in {b"broken_data_url", b"empty_image"}


def talk(*texts):
    return [Turn("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts)]


def test_marks_are_written_only_where_no_question_has_one():
    assert marked(talk("Hi", "Ho"), 2)[0].text == "<image>\n<image>\nHi"
    assert marked(talk("Hi", "Ho"), 0) == tuple(talk("Hi", "Ho"))
    assert marked(talk("Hi", "Ho", "And <image>?"), 2) == tuple(talk("Hi", "Ho", "And <image>?"))
    system = [Turn("system", "Be kind."), *talk("Hi", "Ho")]
    assert [turn.text for turn in marked(system, 1)] == ["Be kind.", "<image>\nHi", "Ho"]
    assert marked(system[:1], 1) == tuple(system[:1])
