from stages.benchmarks.proof import _spread


def test_the_proof_asks_every_task_before_it_asks_one_twice():
    rows = {("tasks", row): {"task": task} for row, task in enumerate("aaabbc")}

    assert [rows[key]["task"] for key in _spread(rows, 4)] == ["a", "b", "c", "a"]
