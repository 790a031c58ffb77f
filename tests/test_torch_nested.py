"""Nested tensors in the drop-in, and where they are refused."""

import pytest
import torch

import qkv
from qkv.errors import BadShape
from torch_tool_cases import DROP_INS, HEADS, TOOL_MARKS, WIDTH, Model, close

pytestmark = TOOL_MARKS


LAYOUTS = pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])


@LAYOUTS
@pytest.mark.parametrize("kind", DROP_INS)
@pytest.mark.parametrize("lengths", [(2, 5), (2, 4, 1), (3, 3)])
def test_nested(kind: str, layout: torch.layout, lengths: tuple[int, ...]) -> None:
    layer = Model(kind).eval().layer
    rows = [torch.randn(length, WIDTH) for length in lengths]
    x = torch.nested.nested_tensor(rows, layout=layout, requires_grad=True)
    out, weights = layer(x, x, x)
    assert out.layout == layout
    for row, expected in zip(out.unbind(), rows, strict=True):
        close(row, layer(expected[None], expected[None], expected[None])[0][0])
    assert weights.shape == (len(rows), max(lengths), max(lengths))
    total = torch.cat(out.unbind()).square().sum()
    total.backward()
    assert x.grad is not None
    assert (x + out).layout == layout  # a residual connection


def test_nested_views_with_holes() -> None:
    layer, dense = Model("drop-in").eval().layer, torch.randn(3, 6, WIDTH)
    x = torch.nested.narrow(dense, 1, torch.tensor([0, 1, 2]), torch.tensor([3, 5, 2]), layout=torch.jagged)
    out, _ = layer(x, x, x)
    for row, begin, length in zip(out.unbind(), (0, 1, 2), (3, 5, 2), strict=True):
        part = dense[[0, 1, 2][begin], begin : begin + length][None]
        close(row, layer(part, part, part)[0][0])


@LAYOUTS
def test_nested_where_it_is_refused(layout: torch.layout) -> None:
    rows = [torch.randn(length, WIDTH) for length in (2, 3, 3)]
    x = torch.nested.nested_tensor(rows, layout=layout)
    last = qkv.MultiheadAttention(WIDTH, HEADS)  # as many rows as the longest has positions: it would fit
    with pytest.raises(BadShape, match="this layer has batch_first=False"):
        last(x, x, x)
    first = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    dense = torch.randn(3, 3, WIDTH)
    for given in ((x, x, dense), (x, dense, dense), (dense, x, x)):
        with pytest.raises(BadShape, match="only attend to itself"):
            first(*given)
    with pytest.raises(BadShape, match="without masks"):
        first(x, x, x, torch.zeros(3, 3).bool())
    with pytest.raises(BadShape, match=r"x is a nested tensor: pass it padded, .*keep="):
        qkv.Attention(WIDTH, HEADS)(x)


def test_nested_without_sequences() -> None:
    first, empty = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True), torch.nested.nested_tensor([])
    with pytest.raises(BadShape, match=r"one or more sequences .*got 0 tensors"):
        first(empty, empty, empty)
