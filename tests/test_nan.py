"""NaN in what an attention is given is named, where the user asks for it."""

import pytest
import torch

import qkv
from qkv.errors import BadData


def with_nan(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape)
    x[1, 2, 0] = torch.nan
    return x


def test_it_is_named_with_its_place() -> None:
    layer, x, bad = qkv.Attention(4), torch.randn(2, 3, 4), with_nan(2, 3, 4)
    with qkv.debug_nan():
        layer(x, x)
        with pytest.raises(BadData, match=r"x \[2, 3, 4\] holds NaN, first at \[1, 2, 0\], 1 in all"):
            layer(bad)
        with pytest.raises(BadData, match="memory"):
            layer(x, bad)
        with pytest.raises(BadData, match="bias"):
            layer(x, bias=bad[..., :3])
        with pytest.raises(BadData, match="memory"):
            layer.start(bad)
        with pytest.raises(BadData, match="x "):
            layer.step(bad, layer.start(x))
        with pytest.raises(BadData, match="k "):
            qkv.attend(x[:, None], bad[:, None], x[:, None])
        with pytest.raises(BadData, match="key "):
            qkv.MultiheadAttention(4, 1, batch_first=True)(x, bad, x)
    layer(bad)


def test_it_can_be_left_on_and_is_restored() -> None:
    bad = with_nan(2, 3, 4)
    qkv.debug_nan()
    try:
        with qkv.debug_nan(False):
            qkv.Attention(4)(bad)
        with pytest.raises(BadData):
            qkv.Attention(4)(bad)
    finally:
        qkv.debug_nan(False)
    qkv.Attention(4)(bad)
