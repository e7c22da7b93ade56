import pytest
import torch

from stages.models import attention
from stages.models.loading import load_model


@pytest.mark.parametrize("masked", [False, True])
def test_it_gives_what_softmax_gives_and_its_gradient(masked):
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(2, heads, 5, 4, generator=generator, requires_grad=True) for heads in (4, 2, 2)]
    mask = torch.zeros(2, 1, 5, 5).masked_fill_(torch.arange(5) > 3, torch.finfo(torch.float32).min) if masked else None

    seen, _ = attention.attend(None, *given, mask)
    query, key, value = (one.double() for one in given)
    key, value = (one.repeat_interleave(2, 1) for one in (key, value))
    scores = query @ key.mT / 2 + (0 if mask is None else mask.double())
    wanted = (torch.softmax(scores, -1) @ value).transpose(1, 2)
    pull = torch.randn(wanted.shape, generator=generator)

    assert torch.allclose(seen.double(), wanted, atol=1e-6)
    gradients = torch.autograd.grad((seen * pull).sum(), given)
    for mine, right in zip(gradients, torch.autograd.grad((wanted * pull).sum(), given), strict=True):
        assert torch.allclose(mine, right, atol=1e-6)


def test_dropout_is_refused():
    one = torch.zeros(1, 1, 2, 4)

    with pytest.raises(ValueError, match="attention_dropout to 0"):
        attention.attend(None, one, one, one, None, dropout=0.1)


def test_a_tower_sees_with_it_what_it_sees_by_itself(tiny_model):
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    by_itself, lean = (
        load_model(tiny_model, attention={"text_config": "eager", "vision_config": name}).get_image_features(pixels)
        for name in ("eager", attention.NAME)
    )

    assert torch.allclose(torch.cat(list(lean.pooler_output)), torch.cat(list(by_itself.pooler_output)), atol=1e-5)
