import json
import random
import xml.etree.ElementTree as ElementTree

import pytest

from bench import contamination as bench


@pytest.fixture(scope="module")
def pictures():
    return bench.generated(6)


def test_what_a_second_look_lets_go_only_lessens_what_is_found_and_more_bits_only_add(pictures):
    for told in bench.recall(pictures[:2]).values():
        assert all(seen <= near for near, seen in zip(told["hash"], told["seen"], strict=True))
        assert told["seen"] == sorted(told["seen"])


def test_the_copies_of_the_issue_are_found_and_unrelated_pictures_are_not(pictures):
    found = bench.recall(pictures[:2])
    at = bench.DISTANCES.index(bench.PARAMS.picture_bits)
    for name in ("resize 0.5", "jpeg 40", "cut 5 %", "mirrored", "all at once"):
        assert found[name]["seen"][at] == 1
    assert bench.mistaken(pictures[:3], pictures[3:])["seen"][at] == 0


@pytest.mark.parametrize("name", bench.CHANGES)
def test_a_change_is_drawn_by_its_seed_alone(pictures, name):
    first, second = (bench.CHANGES[name](pictures[0], random.Random(1)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_edited_questions_are_found_as_often_as_they_share_runs():
    found = bench.questions_found(rows=300, number=40)
    assert found["verbatim"][0] == found["case and punctuation"][0] > 0.9
    assert found["reworded"][-1] == 0
    for name in bench.EDITS:
        assert found[name] == sorted(found[name], reverse=True)


def test_a_small_corpus_is_measured_as_a_large_one_is():
    told = bench.scale(2000, 200, 1500)
    assert told["hashes"] == 28 * 200
    assert told["planted_found"] >= told["planted"] == 200


def test_the_drawing_is_an_svg_with_a_line_for_every_curve(pictures):
    figures = {
        "recall": {"generated": bench.recall(pictures[:1])},
        "mistaken": {"generated": bench.mistaken(pictures[:1], pictures[1:2])},
        "questions": bench.questions_found(rows=50, number=5),
    }
    assert json.loads(json.dumps(figures)) == figures
    lines = ElementTree.fromstring(bench.drawn(figures)).iter("{http://www.w3.org/2000/svg}polyline")
    assert len(list(lines)) == 2 * len(bench.CURVES) + 2 + 1 + len(bench.EDITS)
