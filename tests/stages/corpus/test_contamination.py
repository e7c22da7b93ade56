import hashlib
import io
import itertools
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.corpus import contamination, example, likeness
from stages.corpus.contamination import Asked, Contamination, evidence, items_of, marks, reasons, strongest
from stages.corpus.example import Example, Turn
from stages.corpus.images import ImageWriter
from stages.corpus.pictures import read_looks
from tests.stages.corpus.test_likeness import drawing, lettered

SPECIFIC = "Which of the two lanterns beside the old mill went out before the storm began?"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """What is kept between runs lies in the folder the process stands in."""
    monkeypatch.chdir(tmp_path)


def params(**changed):
    given = {
        "folder": "unused", "benchmarks": "all", "rule": "either", "picture_bits": 8, "picture_likeness": 0.9,
        "picture_patch": 24.0, "picture_tone": 255.0, "question_words": 4, "question_rows": 3, "question_runs": 6,
        "question_share": 0.5,
    }  # fmt: skip
    return Contamination(**given | changed)


def saved(picture, form="PNG", **more):
    buffer = io.BytesIO()
    picture.save(buffer, form, **more)
    return buffer.getvalue()


def asked(benchmark, item, text="", picture=None):
    content = saved(picture) if picture else b""
    name = f"{benchmark}/{hashlib.sha256(content).hexdigest()}" if picture else ""
    return Asked(benchmark, item, text, name, partial(bytes, content) if picture else None)


def found(folder, rows, items, given=None, cut=100, left=None):
    """(row, benchmark, item, by) of all evidence against rows (question, pictures' bytes …), `cut` rows in a shard.

    `left`: which of them are still wanted; None: all.
    """
    given = given or params()
    with ImageWriter(folder / "store", shard_mib=1) as store:
        shown = [[store.add(content) for content in contents] for _, *contents in rows]
    looks = pl.DataFrame(read_looks([folder / "store"], ["sha256", "phash"])).with_row_index("picture")
    place = {digest: number for number, digest in enumerate(looks["sha256"])}
    examples = [
        Example("s", at, "x", "t", "d", "short", "human", tuple(digests), (Turn("user", text), Turn("assistant", "Yes")), False)
        for at, ((text, *_), digests) in enumerate(zip(rows, shown, strict=True))
    ]
    compared = items_of(items, given)
    tables = [example.table_of(examples[first : first + cut]) for first in range(0, len(rows), cut)]
    marked = pl.concat([marks(table, compared.known, given.question_words, given.question_rows) for table in tables])
    lines = evidence(
        pl.DataFrame({"source": "s", "row": pl.Series(range(len(rows)) if left is None else left, dtype=pl.Int64)}),
        pl.DataFrame(
            [("s", at, place[digest]) for at, digests in enumerate(shown) for digest in digests],
            schema={"source": pl.String, "row": pl.Int64, "picture": pl.Int64},
            orient="row",
        ),
        marked,
        looks.cast({"picture": pl.Int64}),
        compared,
        [folder / "store"],
        given,
    )
    assert lines.schema == pl.Schema(contamination.LINES)
    return lines


def named(lines):
    return lines.select("row", "benchmark", "item", "by").rows()


def changed(picture):
    """A copy as copies are: smaller, cut, mirrored, compressed."""
    return saved(picture.crop((4, 6, 156, 158)).resize((90, 90)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=60)


def test_a_row_with_a_copy_of_an_items_picture_is_named_with_every_item_that_asks_about_it(tmp_path):
    items = [
        asked("pope", "1", "Is it?", drawing(1)),
        asked("pope", "2", "Or not?", drawing(1)),
        asked("mme", "a", "?", drawing(2)),
    ]
    rows = [("Hm?", saved(drawing(5))), ("Hm?", saved(drawing(6)), changed(drawing(1))), ("Hm?", saved(drawing(2)))]
    lines = found(tmp_path, rows, items)
    assert named(lines) == [(1, "pope", "1", "picture"), (1, "pope", "2", "picture"), (2, "mme", "a", "picture")]
    assert lines["distance"].to_list()[2] == 0
    assert named(strongest(lines)) == [(1, "pope", "1", "picture"), (2, "mme", "a", "picture")]


def test_a_suspect_that_shows_something_else_is_let_go(tmp_path):
    items, rows = [asked("own", "1", "", lettered(1, "80"))], [("?", saved(lettered(1, "NO"))), ("?", saved(lettered(1, "80")))]
    for seen in (params(), params(picture_likeness=0.8), params(picture_patch=255.0)):
        # The patch alone tells, and the likeness alone.
        assert named(found(tmp_path / f"seen-{seen.picture_likeness}-{seen.picture_patch}", rows, items, seen)) == [
            (1, "own", "1", "picture")
        ]
    assert len(found(tmp_path / "unseen", rows, items, params(picture_likeness=0.0))) == 2


def test_brightness_counts_where_params_say_so(tmp_path):
    brighter = Image.fromarray((np.asarray(drawing(3)) * 0.9 + 20).astype(np.uint8))
    items, rows = [asked("own", "1", "", drawing(3))], [("?", saved(brighter))]
    assert len(found(tmp_path / "any", rows, items)) == 1
    assert len(found(tmp_path / "same", rows, items, params(picture_tone=2.0))) == 0


def test_a_blank_picture_is_only_like_itself(tmp_path):
    blank = Image.new("RGB", (40, 40), "white")
    rows = [("?", saved(blank)), ("?", saved(blank.resize((50, 50)))), ("?", b"no picture at all")]
    assert named(found(tmp_path, rows, [asked("own", "1", "", blank)])) == [(0, "own", "1", "picture")]


def test_a_question_copied_with_small_edits_is_named_with_its_share(tmp_path):
    edited = SPECIFIC.replace("Which", "Tell me which").replace("began?", "started, please!")
    rows = [(f"<image>\n{edited}",), ("Which of the two went out?",), (SPECIFIC,)]
    lines = found(tmp_path, rows, [asked("own", "7", SPECIFIC, drawing(1))])
    assert named(lines) == [(0, "own", "7", "question"), (2, "own", "7", "question")]
    assert lines["overlap"].to_list() == [pytest.approx(11 / 12), 1.0]


def test_a_question_that_more_rows_ask_is_a_template_however_they_lie_in_shards(tmp_path):
    items = [asked("own", "7", SPECIFIC)]
    for number, cut in ((3, 1), (4, 1), (3, 100), (4, 100), (4, 2)):
        lines = found(tmp_path / f"{number}-{cut}", [(SPECIFIC,)] * number, items, cut=cut)
        assert len(lines) == (3 if number == 3 else 0)


def test_rows_that_were_dropped_before_count_for_a_template_too_in_whichever_shard_they_lie(tmp_path):
    items = [asked("own", "7", SPECIFIC)]
    for number, cut in itertools.product((3, 4), (1, 2, 100)):
        lines = found(tmp_path / f"{number}-{cut}", [(SPECIFIC,)] * number, items, cut=cut, left=[2])
        assert lines["row"].to_list() == ([2] if number == 3 else [])


def test_what_is_asked_of_more_benchmark_pictures_is_a_template_but_several_questions_of_one_are_not(tmp_path):
    suffix = "Please answer the question above with either yes or no and nothing else at all."
    several = [asked("mme", str(number), f"Is it {number}? {suffix}", drawing(number)) for number in range(4)]
    turned = [asked("mmbench", str(number), f"{SPECIFIC} {number}", drawing(9)) for number in range(4)]
    rows = [(f"Do birds sing? {suffix}",), (SPECIFIC,)]
    assert {line[1] for line in named(found(tmp_path, rows, several + turned))} == {"mmbench"}


def test_one_word_filled_into_a_template_is_no_copied_question(tmp_path):
    asks = "Please look at the picture and say if there is a {} in the middle of it."
    rows = [(asks.format("sandwich"),), *((asks.format(thing),) for thing in ("dog", "cat", "bus", "tree"))]
    assert not len(found(tmp_path, rows, [asked("pope", "1", asks.format("sandwich"))]))


def test_the_rule_says_what_it_takes(tmp_path):
    items = [asked("own", "1", SPECIFIC, drawing(1)), asked("own", "2", "Who?", drawing(2))]
    rows = [(SPECIFIC,), ("?", saved(drawing(1))), (SPECIFIC, saved(drawing(1))), (SPECIFIC, saved(drawing(2)))]
    by = {rule: found(tmp_path / rule, rows, items, params(rule=rule)) for rule in ("either", "picture", "question", "both")}
    assert {rule: sorted(set(lines["row"])) for rule, lines in by.items()} == {
        "either": [0, 1, 2, 3], "picture": [1, 2, 3], "question": [0, 2, 3], "both": [2],
    }  # fmt: skip
    assert named(by["both"]) == [(2, "own", "1", "picture"), (2, "own", "1", "question")]


def test_the_ledger_is_told_the_benchmark_the_item_and_how_sure(tmp_path):
    items = [asked("own", "1", SPECIFIC), asked("own", "2", "", drawing(2))]
    told = reasons(strongest(found(tmp_path, [(SPECIFIC,), (SPECIFIC, saved(drawing(2)))], items)))
    assert told["reason"].to_list() == ["own: item 1, its question, 100 % of it", "own: item 2, its picture, 0 bits away"]


def test_pictures_are_looked_at_once_and_not_again_in_a_later_run(tmp_path, monkeypatch):
    items, rows = [asked("own", "1", "", drawing(1))], [("?", changed(drawing(1)))]
    first = found(tmp_path / "first", rows, items)
    monkeypatch.setattr(likeness, "opened", lambda content: pytest.fail("a picture was opened again"))
    assert found(tmp_path / "second", rows, items).equals(first)


def test_a_benchmarks_picture_that_cannot_be_seen_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="pope, item 3: no picture that can be opened"):
        items_of([Asked("pope", "3", "?", "pope/x", lambda: b"<html>")], params())


def test_nothing_is_contaminated_by_nothing(tmp_path):
    assert not len(found(tmp_path / "items", [("?", saved(drawing(1)))], []))
    assert not len(found(tmp_path / "rows", [("",)], [asked("own", "1", SPECIFIC, drawing(1))]))


questions = st.lists(st.lists(st.sampled_from("abcdef"), max_size=7).map(" ".join), max_size=8)


@given(questions, questions, st.integers(1, 4))
def test_of_a_run_a_shard_marks_every_row_or_one_more_than_tell_a_template(texts, known, most):
    items = [Asked("own", str(number), text, "", None) for number, text in enumerate(known)]
    compared = items_of(items, params(question_words=2, question_rows=1000))
    examples = [
        Example("s", at, "x", "t", "d", "short", "human", (), (Turn("user", text), Turn("assistant", "Yes")), False)
        for at, text in enumerate(texts)
    ]
    counts = marks(example.table_of(examples), compared.known, 2, most).group_by("gram").len()
    every = marks(example.table_of(examples), compared.known, 2, 1000).group_by("gram").len()
    assert dict(counts.rows()) == {gram: min(number, most + 1) for gram, number in every.rows()}
    pairs = {pair for text in known for pair in zip(text.split(), text.split()[1:], strict=False)}
    assert len(every) == len({pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)} & pairs)
