"""Both doors, around a toy project: the same lock, the same bytes, and words that say why."""

import pytest


@pytest.mark.slow
def test_both_doors_leave_the_same_lock_and_the_same_bytes(make_toy):
    shell, prefect = make_toy("shell"), make_toy("prefect")

    shell.run("dvc", "repro")
    said = prefect.run("flows.pipeline")

    assert prefect.files() == shell.files()
    assert "runs, because" in said
    assert "up to date" in shell.run("dvc", "repro")
    assert "up to date" in prefect.run("dvc", "status")
