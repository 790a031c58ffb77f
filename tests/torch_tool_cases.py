"""Shared by the tests of torch's tools: the layers, their inputs and the comparisons."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv

WIDTH, HEADS = 8, 2
SIZES = [(3, 17), (1, 5), (2, 600)]  # not those that programs are recorded with

TOOL_MARKS = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

DROP_INS: dict[str, dict[str, Any]] = {
    "drop-in": {},
    "drop-in, elu": {"kernel": qkv.Elu()},
    "drop-in, rfa": {"kernel": qkv.RFA(8)},
}
ATTENTIONS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "causal": {"causal": True},
    "shared heads": {"kv_heads": 1},
    "general": {"score": qkv.General()},
    "additive": {"score": qkv.Additive()},
    "location": {"score": qkv.Location(2048)},
    "window": {"scope": qkv.Window(2)},
    "causal window": {"scope": qkv.Window(2), "causal": True},
    "predictive": {"scope": qkv.Predictive(2)},
    "sparsemax": {"select": qkv.Sparsemax()},
    "top-k": {"select": qkv.TopK(3)},
    "hard": {"select": qkv.Hard()},
    "elu": {"kernel": qkv.Elu()},
    "causal elu": {"kernel": qkv.Elu(), "causal": True},
    "rfa": {"kernel": qkv.RFA(8)},
    "rfa with a gate": {"kernel": qkv.RFA(8, gate=True), "causal": True},
    "rfa with lengths": {"kernel": qkv.RFA(8, normalise=False), "causal": True},
    "arccos": {"kernel": qkv.RFA(8, "arccos")},
    "causal favor": {"kernel": qkv.Favor(8), "causal": True},
}
EVERY = ["torch", *DROP_INS, *ATTENTIONS]
SLOW = {
    "shared heads",
    "general",
    "location",
    "causal window",
    "sparsemax",
    "top-k",
    "hard",
    "elu",
    "rfa",
    "arccos",
}
every_kind = pytest.mark.parametrize("kind", EVERY)
most_kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in EVERY]
)


class Model(nn.Module):
    """A layer that attends from x [B,N,M] to itself; keep [B,N] marks the real positions."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.kind = kind
        if kind in ATTENTIONS:
            self.layer: Any = qkv.Attention(WIDTH, HEADS, **ATTENTIONS[kind], **options)
        elif kind == "torch":
            self.layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        else:
            self.layer = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, **DROP_INS[kind], **options)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        if self.kind in ATTENTIONS:
            return self.layer(x, keep=keep)
        ignore = torch.where(keep, 0.0, -torch.inf).to(x)
        return self.layer(x, x, x, key_padding_mask=ignore, need_weights=False)[0]


def inputs(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """x and keep: rows of different lengths, padded on the right."""
    ends = length - torch.arange(batch)[:, None] % length
    return torch.randn(batch, length, WIDTH), torch.arange(length) < ends


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def agree(recorded: Callable[..., Tensor], model: nn.Module, sizes: list[tuple[int, int]] = SIZES) -> None:
    """The same values for other sizes, other inputs and other padding."""
    with torch.no_grad():
        for size in sizes:
            given = inputs(*size)
            close(recorded(*given), model(*given), 3e-5)


def twins(**options: Any) -> tuple[Any, Any]:
    """torch's layer and ours with the same weights."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def fill_memory() -> None:
    """Leave numbers in the memory that to_empty is going to find."""
    junk = [torch.full((size,), 7e3) for size in (16, 64, 256, 2048, 4096) for _ in range(30)]
    del junk
