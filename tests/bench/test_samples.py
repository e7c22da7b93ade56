"""Real samples, where they are at hand, go through the data half, and every row ends in a state."""

from pathlib import Path

import pytest

from bench import samples

SHARED = Path(__file__).parents[3] / "shared" / "samples"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not on this machine")
def test_the_rows_of_every_real_sample_are_all_accounted_for(tmp_path):
    samples.run(SHARED, tmp_path / "run")
    ends, told = samples.funnel(tmp_path / "run" / "data"), samples.kinds_told(tmp_path / "run" / "data")

    assert sum(ends["vision_flan_site"].values()) == 205
    assert ends["vision_flan_site"]["unreadable: missing_image"] == 36
    assert ends["llava_90"] == {"unreadable: missing_image": 90}
    assert sum(ends["tabmwp"].values()) == 300
    assert ends["tabmwp"]["ready: train"] > 200
    assert ends["llava_bench"] == {"contaminated: llava_bench": 60}
    assert told["another"] == 0


def test_a_seed_becomes_a_row_of_each_kind_that_its_ending_asks_for():
    seeds = {kind: {"English": [f"What {kind}?"], "Chinese": []} for kind in ("judge", "choice", "sentence")}
    endings = {kind: {"English": [f" End of {kind}."]} for kind in samples.KINDS}

    rows = samples.seeded("ocr", seeds, endings, "English")

    assert [(row["id"], row["conversations"][0]["value"], row["conversations"][1]["value"]) for row in rows] == [
        ("ocr.judgement.English.0", "<image>\nWhat judge? End of judge.", "Yes"),
        ("ocr.choice.English.1", "<image>\nWhat choice?\nA. red\nB. green\nC. blue\nD. grey\n End of select.", "B. green"),
        ("ocr.short.English.2", "<image>\nWhat sentence? End of shortsentence.", "Red"),
        (
            "ocr.long.English.3",
            "<image>\nWhat sentence? End of longsentence.",
            "There is something red, and something green beside it.",
        ),
    ]


def test_a_domain_without_seeds_has_no_rows():
    assert samples.seeded("ocr", {}, {}, "English") == []
