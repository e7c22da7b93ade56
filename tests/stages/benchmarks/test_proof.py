import pytest

from stages.benchmarks.benchmark import write_jsonl
from stages.benchmarks.proof import _recorded, _spread


def test_the_proof_asks_every_task_before_it_asks_one_twice():
    rows = {("tasks", row): {"task": task} for row, task in enumerate("aaabbc")}

    assert [rows[key]["task"] for key in _spread(rows, 4)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_an_answer_may_hold_what_other_programs_take_for_a_line_end(tmp_path, mark):
    row = {"source": "cats", "row": 3, "answer": f"one{mark}two"}
    write_jsonl(tmp_path / "held_out" / "answers.jsonl", [row])

    assert _recorded(tmp_path) == {("cats", 3): row}
