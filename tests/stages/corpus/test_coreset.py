import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus import example, ledger
from stages.corpus.coreset import SLACK, Coreset, Marker, concepts_of, coreset, coverage, with_keywords
from stages.corpus.example import Example, Turn, table_of
from stages.corpus.ledger import Line
from stages.curate import Params, curate
from stages.running.compute import Compute, use
from stages.running.endpoint import Endpoint
from stages.running.section import read_params, section_of

NOWHERE = Endpoint(url=None, model=None, api_key_env="X", temperature=0.0, tries=1)
DIMENSIONS = {"animals": ["cat", "dog"], "streets": ["bus", "traffic light", "dog"]}


def params(method="diverse", rows=2, seed=1, **changed):
    given = {"concepts": DIMENSIONS, "keywords": "rules", "keywords_per_dimension": 4, "endpoint": NOWHERE} | changed
    return Coreset(method=method, rows=rows, seed=seed, **given)


def row(number, *texts, source="s", images=("i",), task="t", templated=False):
    turns = tuple(Turn(("user", "assistant")[place % 2], text) for place, text in enumerate(texts))
    return Example(source, number, "", task, "other", "short", "human", tuple(images), turns, templated)


def table(*rows):
    return table_of(rows)


def marked(texts, chosen=None, **about):
    return Marker(chosen or params())(table(*(row(number, text, "So.", **about) for number, text in enumerate(texts))))


def found(texts, task="t", templated=False, **changed):
    """The keywords each text holds."""
    chosen = params(**changed)
    names = concepts_of(chosen).names
    bits = [
        np.unpackbits(np.frombuffer(one, dtype=np.uint8))
        for one in marked(texts, chosen, task=task, templated=templated)["concepts"]
    ]
    return [{name for name, bit in zip(names, one, strict=False) if bit} for one in bits]


def kept(marks, chosen):
    dropped = coreset(marks, chosen)
    return set(marks.join(dropped, on=["source", "row"], how="anti").select("source", "row").iter_rows())


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("A cat.", {"cat"}),
        ("CATS and Dogs", {"cat", "dog"}),
        ("cat dog cat", {"cat", "dog"}),
        ("concatenate the catalogue", set()),
        ("two buses", {"bus"}),
        ("traffic, lights", {"traffic light"}),
        ("traffic lights", {"traffic light"}),
        ("traffic of lights", set()),
        ("“Cat”—dog", {"cat", "dog"}),
        ("", set()),
    ],
)
def test_a_keyword_is_found_as_whole_words_in_any_case_and_number(text, concepts):
    assert found([text]) == [concepts]


def test_every_turn_of_a_conversation_counts_and_no_keyword_spans_two():
    marks = Marker(params())(table(row(0, "A cat?", "No, a traffic", "light dog", "Yes")))
    bits = np.unpackbits(np.frombuffer(marks["concepts"][0], dtype=np.uint8))
    names = concepts_of(params()).names
    assert {name for name, bit in zip(names, bits, strict=False) if bit} >= {"cat", "dog"}


def test_bare_input_is_about_what_its_task_is_named_after():
    assert found(["A small one."], task="dogs+count", templated=True) == [{"dog"}]
    assert found(["A small one."], task="dogs+count") == [set()]


def test_forms_that_two_keywords_share_count_for_both():
    assert found(["axes"], concepts={"tools": ["ax", "axe"]}) == [{"ax", "axe"}]


def test_chinese_keywords_are_found_inside_a_run_of_characters():
    assert found(["一辆红色的汽车。", "蓝色"], concepts={"colour": ["红色"]}) == [{"红色"}, set()]


def test_more_than_one_byte_of_concepts():
    words = [f"word{chr(97 + k)}" for k in range(20)]
    assert found(["Wordt worda"], concepts={"words": words}) == [{"worda", "wordt"}]


@pytest.mark.parametrize(
    ("answers", "lean"),
    [(["Yes"], 1), (["no."], -1), (["Yes, it is", "No", "No way"], -1), (["Nothing", "Yesterday"], 0), (["Yes", "No"], 0)],
)
def test_a_row_leans_to_what_its_answers_say(answers, lean):
    marks = Marker(params())(table(row(0, *(text for answer in answers for text in ("Yes or no?", answer)))))
    assert marks["lean"].to_list() == [lean]


def test_marks_do_not_hang_on_the_shards_the_rows_lie_in():
    rows = [row(number, f"A cat and {number} dogs", "Yes", images=[str(number)]) for number in range(10)]
    marker = Marker(params())
    halves = pl.concat([marker(table(*rows[:3])), marker(table(*rows[3:]))])
    assert halves.equals(marker(table(*rows)))
    assert marker(table(*rows).slice(3)).equals(marker(table(*rows[3:])))
    assert len(marker(table())) == 0


def test_ranks_hang_on_seed_pictures_words_and_the_task_of_bare_input():
    def rank(*words, seed=1, **about):
        return Marker(params(seed=seed))(table(row(0, *words, **about)))["rank"][0]

    base = rank("a", "b")
    assert rank("a", "b", source="other") == base
    assert rank("a", "b", task="u") == base
    others = [
        rank("a", "b", seed=2), rank("a", "c"), rank("ab", ""), rank("a", "b", images=["j"]),
        rank("a", "b", templated=True), rank("a", "b", task="u", templated=True),
    ]  # fmt: skip
    assert len({base, *others}) == 7


def test_none_keeps_all():
    assert coreset(marked(["a", "b"]), params("none", None)).is_empty()


def test_diverse_takes_the_largest_overlap_and_then_what_is_still_missing():
    marks = marked(["A cat.", "A cat and a dog.", "Another cat and dog.", "A cat by a bus at traffic lights.", "Nothing."])
    assert kept(marks, params(rows=1)) <= {("s", 1), ("s", 2)}
    two = kept(marks, params(rows=2))
    assert len(two & {("s", 1), ("s", 2)}) == 1
    assert ("s", 3) in two
    assert ("s", 4) in {("s", k) for k in range(5)} - kept(marks, params(rows=4))


def test_every_row_that_is_not_kept_says_its_overlap():
    dropped = coreset(marked(["A cat.", "A dog and a cat.", "Nothing."]), params(rows=1))
    assert dropped.rows() == [("s", 0, "diverse: overlap 1 of 4 concepts"), ("s", 2, "diverse: overlap 0 of 4 concepts")]


def test_dimensions_count_alike_however_many_keywords_they_have():
    many = {"streets": ["bus", "car", "road", "sign"], "animals": ["cat"]}
    marks = marked(["A bus and a car and a road.", "A cat."], params(concepts=many))
    assert kept(marks, params(rows=1, concepts=many)) == {("s", 1)}


@pytest.mark.parametrize("method", ["random", "diverse", "balanced", "both"])
def test_what_is_drawn_hangs_on_what_rows_say_and_on_the_seed_and_not_on_their_numbers(method):
    def said(numbers, seed):
        chosen = params(method, 10, seed)
        marks = Marker(chosen)(table(*(row(numbers[n], f"A cat called {n}.", "So.") for n in range(100))))
        left = {number for _, number in kept(marks, chosen)}
        return {n for n in range(100) if numbers[n] in left}

    straight, back = range(100), range(99, -1, -1)
    assert said(straight, 1) == said(back, 1) != said(straight, 2)


def test_a_row_beyond_all_rows_is_no_fault():
    for method in ("random", "diverse", "both"):
        assert coreset(marked(["a", "b"]), params(method, 9)).is_empty()


WORDS = st.lists(st.sampled_from(["cat", "dog", "bus", "traffic light", "tree"]), max_size=4).map(" ".join)
TALKS = st.lists(st.tuples(WORDS, st.sampled_from(["Yes", "No", "Red"])), min_size=1, max_size=40)
METHODS = st.sampled_from(["random", "diverse", "balanced", "both"])


def talks(drawn):
    return Marker(params())(table(*(row(n, text, answer, images=[str(n)]) for n, (text, answer) in enumerate(drawn))))


@settings(deadline=None)
@given(TALKS, METHODS, st.data())
def test_a_smaller_coreset_is_a_part_of_a_larger_one(drawn, method, data):
    marks = talks(drawn)
    fewer, more = sorted(data.draw(st.tuples(*[st.integers(1, len(drawn))] * 2)))
    assert kept(marks, params(method, fewer)) <= kept(marks, params(method, more))


@settings(deadline=None)
@given(TALKS, METHODS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_order_in_which_rows_come_changes_nothing(drawn, method, rows, random):
    marks = talks(drawn)
    order = list(range(len(marks)))
    random.shuffle(order)
    assert coreset(marks, params(method, rows)).equals(coreset(marks[order], params(method, rows)))


@settings(deadline=None)
@given(TALKS, st.sampled_from(["balanced", "both"]), st.integers(1, 40))
def test_yes_and_no_are_level_among_the_kept(drawn, method, rows):
    marks = talks(drawn)
    left = marks.join(coreset(marks, params(method, rows)), on=["source", "row"], how="anti")
    assert abs(int(left["lean"].sum())) <= 1
    # No more is given up than the balance asks for.
    sides = [int((marks["lean"] == side).sum()) for side in (1, -1, 0)]
    most = 2 * min(sides[:2]) + sides[2]
    assert len(left) == min(rows, most)


@settings(deadline=None)
@given(TALKS, st.sampled_from(["balanced", "both"]))
def test_rows_given_up_for_the_balance_say_so(drawn, method):
    marks = talks(drawn)
    dropped = coreset(marks, params(method, len(drawn))).join(marks, on=["source", "row"])
    assert all(
        reason == f"{method}: more {'Yes' if lean > 0 else 'No'} than {'No' if lean > 0 else 'Yes'}"
        for reason, lean in dropped.select("reason", "lean").iter_rows()
    )


def test_a_balance_needs_no_number_of_rows():
    marks = Marker(params())(table(*(row(n, "Is it?", "Yes" if n % 3 else "No", images=[str(n)]) for n in range(30))))
    assert len(kept(marks, params("balanced", None))) == 20


def worth(marks, chosen):
    """What a choice covers: the sum over concepts of weight × (1 + 1/2 + … + 1/n)."""
    concepts = concepts_of(chosen)
    numbers = np.unpackbits(np.stack([np.frombuffer(one, dtype=np.uint8) for one in marks["concepts"]]), axis=1).sum(axis=0)
    return sum(w * sum(1 / k for k in range(1, n + 1)) for w, n in zip(concepts.weights, numbers, strict=False))


def test_the_choice_is_worth_what_the_plain_greedy_one_is_up_to_the_slack():
    rng = np.random.default_rng(0)
    words = [f"word{chr(97 + k)}" for k in range(12)]
    chosen = params(rows=25, concepts={"some": words[:3], "others": words[3:]})
    marks = marked([" ".join(rng.choice(words, rng.integers(0, 5))) for _ in range(150)], chosen)
    plain = []
    for _ in range(25):
        rest = [n for n in range(len(marks)) if n not in plain]
        plain.append(max(rest, key=lambda n: worth(marks[[*plain, n]], chosen)))
    ours = marks.join(coreset(marks, chosen), on=["source", "row"], how="anti")
    assert worth(ours, chosen) >= (1 - SLACK) * worth(marks[plain], chosen)
    drawn = marks.join(coreset(marks, params("random", 25)), on=["source", "row"], how="anti")
    assert worth(ours, chosen) > 1.1 * worth(drawn, chosen)


def test_a_few_new_rows_change_few_of_the_chosen():
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "bus", "traffic light", "tree"]
    texts = [f"{' '.join(rng.choice(words, rng.integers(0, 4)))} {n}" for n in range(2000)]
    before = kept(marked(texts[:1980]), params(rows=500))
    after = kept(marked(texts), params(rows=500))
    assert len(before & after) >= 480


def test_what_was_covered_is_counted_by_dimension():
    marks = marked(["A cat.", "A cat and a dog.", "Nothing."])
    about = coverage(marks, coreset(marks, params(rows=1)), params(rows=1))
    assert about["rows"] == {"met": 3, "kept": 1}
    assert about["dimensions"]["animals"] == {
        "keywords": {"cat": 1, "dog": 1}, "never_met": [], "rows": {"met": 2, "kept": 1},
    }  # fmt: skip
    assert about["dimensions"]["streets"]["never_met"] == ["bus", "traffic light"]


def test_a_draw_needs_no_concepts():
    chosen = params("random", 2, concepts={})
    marks = marked(["a", "b", "c"], chosen)
    assert coreset(marks, chosen)["reason"].to_list() == ["random: not among the 2 drawn"]
    assert coverage(marks, coreset(marks, chosen), chosen)["dimensions"] == {}


def test_dimensions_without_keywords_get_them_and_the_others_keep_theirs(tmp_path):
    bare = params(concepts={"animals": ["cat"], "road_signs": []})
    filled = with_keywords(bare, {"road_signs": ["Is it a stop sign?"], "animals": ["Is it a cat?"]}, tmp_path)
    assert filled.concepts["animals"] == ["cat"]
    assert filled.concepts["road_signs"][:2] == ["road", "sign"]
    assert "stop" in " ".join(filled.concepts["road_signs"])
    assert with_keywords(params(), {}, tmp_path) == params()


def test_an_endpoint_without_address_is_never_an_empty_list(tmp_path):
    with pytest.raises(ValueError, match="give its url"):
        with_keywords(params(concepts={"animals": []}, keywords="endpoint"), {}, tmp_path)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"method": "random", "rows": None}, "say how many in rows"),
        ({"method": "both", "rows": 1, "concepts": {}}, "needs concepts"),
        ({"concepts": {"a": ["one two three four five"]}}, "is no keyword"),
    ],
)
def test_params_that_cannot_be_meant_are_refused(changed, wanted):
    with pytest.raises(ValueError, match=wanted):
        params(**changed)


def test_a_table_of_several_chunks_is_one_table():
    rows = [row(n, "A cat.", "Yes", images=[str(n)]) for n in range(4)]
    chunked = pa.concat_tables([table(*rows[:1]), table(*rows[1:])])
    assert Marker(params())(chunked).equals(Marker(params())(table(*rows)))


def curating(**train):
    """The embedded profile's section, with changes of `train`'s."""
    path = Path(__file__).parents[3] / "params.yaml"
    embedded = section_of(Params, "curate", read_params(path), path)
    return embedded.model_copy(update={"held_out": 0.0, "balance": False, "train": embedded.train.model_copy(update=train)})


def test_curate_learns_from_the_coreset_alone_and_says_why_of_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(Compute(engine="local", address=None, processes=1))
    texts = ["A cat.", "A cat and a dog.", "A bus by the traffic lights, and a cat.", "Nothing.", "Something."]
    by_source = {
        "tasks": [row(n, text, "So.", source="tasks") for n, text in enumerate(texts)],
        "captions": [row(0, "A caption?", "A cat.", source="captions")],
        "chats": [row(0, "A chat?", "A dog.", source="chats")],
    }
    for source, rows in by_source.items():
        example.write(tmp_path / "validated" / "examples" / f"{source}-00000.parquet", rows)
    lines = [Line(one.source, one.row, "", "t", ledger.ON) for rows in by_source.values() for one in rows]
    ledger.write(tmp_path / "validated" / "ledger.parquet", lines)
    (tmp_path / "ingested").mkdir()
    for method, rows in (("diverse", 2), ("both", 2), ("none", None)):
        out = tmp_path / method
        curate(
            curating(coreset=params(method, rows)),
            tmp_path / "validated",
            tmp_path / "ingested",
            tmp_path / "ingested",  # where no benchmark lies
            "1000",
            out,
        )
        left = {one.row for one in example.read_all(out / "train")}
        ended = {line.row: line.reason for line in ledger.read(out / "ledger.parquet") if line.state == "not_in_coreset"}
        assert left | ended.keys() == set(range(5))
        if method == "none":
            assert ended == {}
        else:
            assert left == {1, 2}
            assert ended[0] == f"{method}: overlap 1 of 4 concepts"
            assert json.loads((out / "choices.json").read_text())["train"]["coreset"]["rows"] == {"met": 5, "kept": 2}
