import pytest
import torch

from stages.models.device import resolve_device


def test_cuda_is_refused_in_words_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match=r"set device: auto or cpu in params\.yaml"):
        resolve_device("cuda")
