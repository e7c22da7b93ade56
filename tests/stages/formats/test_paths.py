import posixpath

from hypothesis import given
from hypothesis import strategies as st

from stages.formats.paths import Paths

LETTERS = st.text(st.sampled_from(["a", "b", "/", "ü", "\udcff", "."]), max_size=5)


@given(st.lists(LETTERS, max_size=30), LETTERS)
def test_paths_are_found_whole_and_by_their_names_however_wild_they_are(listed, wanted):
    paths = Paths()
    for path in listed:
        paths.append(path)
    assert [paths[number] for number in range(len(paths))] == listed
    assert paths.of(wanted) == [number for number, path in enumerate(listed) if path == wanted]
    assert paths.named(wanted) == [number for number, path in enumerate(listed) if posixpath.basename(path) == wanted]


def test_paths_whose_hashes_are_equal_are_told_apart(monkeypatch):
    monkeypatch.setattr("stages.formats.paths.hash", lambda _: 7, raising=False)
    paths = Paths()
    for path in ("x/a", "y/b", "a"):
        paths.append(path)
    assert paths.of("y/b") == [1]
    assert paths.named("a") == [0, 2]
