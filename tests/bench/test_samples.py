"""Real samples, where they are at hand, go through the data half, and every row ends in a state."""

from pathlib import Path

import pytest

from bench import corpus, samples

SHARED = Path(__file__).parents[3] / "shared" / "samples"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not on this machine")
def test_the_rows_of_every_real_sample_are_all_accounted_for(tmp_path):
    sources = samples.laid_out(SHARED, tmp_path)
    samples.prepared(tmp_path, sources)
    for name in [*sources, "captions", "chats"]:
        corpus.command(tmp_path, "ingest", name, corpus.folder_of(tmp_path, name), f"data/ingest/{name}")
    for stage in corpus.STAGES[1:]:
        corpus.command(tmp_path, *corpus.words_of(stage, tmp_path))
    ends = samples.funnel(tmp_path / "data")

    assert sum(ends["vision_flan_site"].values()) == 205
    assert ends["vision_flan_site"]["unreadable: missing_image"] == 36
    assert ends["llava_90"] == {"unreadable: missing_image": 90}
    assert sum(ends["tabmwp"].values()) == 300
    assert ends["tabmwp"]["ready: train"] > 200
