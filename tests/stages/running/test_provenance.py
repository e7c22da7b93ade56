from stages.running.provenance import facts_of_run


def test_the_facts_of_a_run_are_every_params_value_and_every_digest_dvc_recorded(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {lora: {rank: 16}, seed: null}\nanswer: {models: [base, align]}")
    (tmp_path / "dvc.lock").write_text(
        "stages: {curate: {outs: [{path: data/curate, md5: 12ab.dir}]}, register: {outs: [{path: verdict, md5: 34cd}]}}"
    )

    facts = facts_of_run(tmp_path)

    assert facts.params == {"train.lora.rank": "16", "train.seed": "null", "answer.models": '["base", "align"]'}
    assert facts.tags == {"git_commit": "none", "md5.data/curate": "12ab.dir"}
