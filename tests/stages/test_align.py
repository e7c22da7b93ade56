import torch
from safetensors.torch import load_file

from stages.align import Params as AlignParams
from stages.align import align
from stages.train import Params as TrainParams
from stages.train import train


def test_align_goes_on_from_the_model_that_train_made(place, tiny_model, tuning):
    outs = [place / name for name in ("train", "align")]
    for out in outs:
        out.mkdir()
    files = [(out / "model", out / "m.json", out / "c.csv", out / "l.parquet") for out in outs]

    rendered, ingested = place / "rendered", place / "ingested"
    train(TrainParams.model_validate({**tuning, "epochs": 5.0}), rendered, rendered, ingested, tiny_model, *files[0])
    gentle = AlignParams.model_validate({**tuning, "learning_rate": 0.0001, "dose": 20, "begin": "train"})
    align(gentle, rendered, rendered, ingested, outs[0] / "model", tiny_model, *files[1])

    base, trained, aligned = (
        load_file(folder / "model.safetensors") for folder in (tiny_model, *(one / "model" for one in outs))
    )

    def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        return sum((one[name] - other[name]).norm().item() for name in one)

    assert 0 < distance(trained, aligned) < 0.2 * distance(base, aligned)
