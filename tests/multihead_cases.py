"""Shared by the tests of the drop-in: pairs of layers, inputs and masks."""

from typing import Any

import torch
from torch import Tensor, nn

from qkv.multihead import MultiheadAttention

WIDTH, HEADS, BATCH, T, S = 6, 3, 2, 5, 7
WIDTHS = {"one width": {}, "kdim": {"kdim": 11}, "kdim, vdim": {"kdim": 11, "vdim": 13}}
EXTRAS = {
    "plain": {},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
}


def close(actual: Tensor | None, expected: Tensor | None, tolerance: float = 1e-10) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def pair(**options: Any) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's, with the same random weights and biases, read through the state_dict."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(layer: Any, batched: bool = True, own: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in the layout of the layer; the same tensor three times where `own`."""
    q = torch.randn(BATCH, T, WIDTH, dtype=torch.float64)
    k, v = (torch.randn(BATCH, S, width, dtype=torch.float64) for width in (layer.kdim, layer.vdim))
    arranged = (x if layer.batch_first else x.transpose(0, 1) for x in (q, k, v))
    q, k, v = (x.clone().requires_grad_() for x in (arranged if batched else (q[0], k[0], v[0])))
    return (q, q, q) if own else (q, k, v)


def masks_of(kind: str, keys: int = S, batch: int = BATCH) -> dict[str, Tensor]:
    """Masks in torch's polarity that leave every query its first key."""
    hide = torch.rand(batch, keys) < 0.4
    pairs = torch.rand(T, keys) < 0.4
    rows = torch.rand(batch * HEADS, T, keys) < 0.4
    hide[:, 0], pairs[:, 0], rows[:, :, 0] = False, False, False
    hide[:, 1], pairs[:, 2], rows[:, :, 3] = True, True, True
    given: dict[str, dict[str, Tensor]] = {
        "none": {},
        "padding": {"key_padding_mask": hide},
        "pairs": {"attn_mask": pairs},
        "heads": {"attn_mask": rows, "key_padding_mask": hide},
        "infinite": {"attn_mask": infinite(pairs), "key_padding_mask": infinite(hide)},
        "scores": {
            "attn_mask": infinite(rows) + torch.randn(rows.shape, dtype=torch.float64),
            "key_padding_mask": infinite(hide) + torch.randn(hide.shape, dtype=torch.float64),
        },
    }
    return given[kind]


def infinite(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


def agree(ours: nn.Module, theirs: nn.Module, given: tuple[Tensor, ...], **options: Any) -> None:
    """The same output, weights, and gradients of inputs and parameters."""
    out, weights = ours(*given, **options)
    expected, shown = theirs(*given, **options)
    close(out, expected)
    assert (weights is None) == (shown is None)
    if shown is not None:
        close(weights, shown)
    direction = torch.randn_like(expected)
    names = [name for name, _ in theirs.named_parameters()]
    mine, its = (
        torch.autograd.grad(
            result, [*dict.fromkeys(given), *(layer.get_parameter(name) for name in names)], direction
        )
        for layer, result in ((ours, out), (theirs, expected))
    )
    for a, b in zip(mine, its, strict=True):
        close(a, b)
