import mlflow
import pandas as pd
import pytest

from stages.train import Params, train


def test_the_loss_falls_and_its_curve_is_in_the_file_and_in_mlflow(place, tiny_model, tuning):
    params = Params.model_validate({**tuning, "epochs": 20.0})

    rendered = place / "rendered"
    files = [place / name for name in ("model", "m.json", "c.csv", "ledger.parquet")]
    train(params, rendered, rendered, place / "ingested", tiny_model, *files)

    curve = pd.read_csv(place / "c.csv")
    assert list(curve.columns) == ["step", "loss", "grad_norm", "learning_rate"]
    assert curve["step"].is_monotonic_increasing
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    run = mlflow.MlflowClient().search_runs(["1"], "tags.stage = 'train'", max_results=1)[0]
    live = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert {point.step: point.value for point in live} == pytest.approx(dict(zip(curve["step"], curve["loss"], strict=True)))
    assert run.data.params["train.epochs"] == "20.0"


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(place, tiny_model, tuning):
    written = []
    for name in ("one", "two"):
        out = place / name
        out.mkdir()
        train(
            Params.model_validate(tuning), place / "rendered", place / "rendered", place / "ingested", tiny_model,
            out / "model", out / "m.json", out / "c.csv", out / "ledger.parquet",
        )  # fmt: skip
        written.append([path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()])
    assert written[0] == written[1]
