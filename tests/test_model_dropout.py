"""Dropout drops what its random numbers say, in every dtype, and scales the rest."""

import pytest
import torch

from qkv.model.dropout import LEVELS, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_dropout_equals_its_definition(dtype: torch.dtype, rate: float) -> None:
    x = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    torch.manual_seed(1)
    out = dropout(x, rate, training=True)
    gradient = torch.autograd.grad(out.sum(), x)[0]
    torch.manual_seed(1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    threshold = round(rate * LEVELS)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape).int() + LEVELS // 2 >= threshold
    expected = keep.to(dtype) * (LEVELS / (LEVELS - threshold))
    assert torch.equal(out, x * expected)
    assert torch.equal(gradient, expected)


def test_dropout_keeps_the_mean_and_does_nothing_outside_training() -> None:
    x = torch.ones(1000, 100)
    torch.manual_seed(0)
    out = dropout(x, 0.3, training=True)
    assert abs(float((out == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(out.mean()) - 1) < 0.01
    assert dropout(x, 0.3, training=False) is x
    assert dropout(x, 0.0, training=True) is x
