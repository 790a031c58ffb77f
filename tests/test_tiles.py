"""Neighbourhoods on a grid: tiles equal all pairs, hidden cells keep their place, other sizes are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from qkv.errors import BadShape
from qkv.kernel import tiles
from qkv.layer import Attention
from qkv.scope import Neighbourhood
from qkv.score import Additive, Cosine, General, Location
from qkv.select import Entmax, Hard, Sparsemax, TopK
from reference.loops import weights_of
from test_exact import Largest, close, gradients

B, H, WIDTH = 2, 4, 4 * 7
# Tiles that fit the grid, that reach over its border on one side and on both, and that are larger than it.
GRIDS = [(9, 12, 1), (10, 13, 2), (3, 40, 1), (31, 2, 1)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_SIDE", 3)


def layer(grid: tuple[int, int, int], **parts: Any) -> Attention:
    return Attention(WIDTH, H, kv_heads=2, scope=Neighbourhood(*grid), **parts).double().eval()


def cells(grid: tuple[int, int, int]) -> Tensor:
    return torch.randn(B, grid[0] * grid[1], WIDTH).double()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("hidden", ["none", "anywhere"])
def test_tiles_equal_all_pairs(
    small_tiles: None, grid: tuple[int, int, int], causal: bool, hidden: str
) -> None:
    attention, x = layer(grid, causal=causal), cells(grid)
    keep = None if hidden == "none" else torch.rand(x.shape[:2]) < 0.7
    assert " tiles of " in attention.explain(x.shape[1], x.shape[1])
    expected = attention.attend(x, keep=keep).out
    close(attention(x, keep=keep), expected)
    with torch.no_grad():
        close(attention(x, keep=keep), expected)
    close(
        gradients(attention, lambda x: attention(x, keep=keep), x),
        gradients(attention, lambda x: attention.attend(x, keep=keep).out, x),
    )


@pytest.mark.parametrize("score", [None, General(), Additive(5), Cosine(2.0), Location(130)], ids=repr)
@pytest.mark.parametrize("select", [Entmax(), Sparsemax(), TopK(3), Hard("gumbel")], ids=repr)
def test_tiles_take_any_score_and_selection(small_tiles: None, score: Any, select: Any) -> None:
    attention, x = layer(GRIDS[1], score=score, select=select), cells(GRIDS[1])
    keep = torch.rand(x.shape[:2]) < 0.8
    close(attention(x, keep=keep), attention.attend(x, keep=keep).out)


def test_tiles_serve_a_memory_and_other_masks_take_all_pairs(small_tiles: None) -> None:
    attention, x, memory = layer(GRIDS[1]), cells(GRIDS[1]), cells(GRIDS[1])
    close(attention(x, memory), attention.attend(x, memory).out)
    close(attention(x[:, :50], memory), attention.attend(x[:, :50], memory).out)
    for name, mask in (("allow", torch.rand(130, 130) < 0.9), ("bias", torch.randn(130, 130).double())):
        close(attention(x, **{name: mask}), attention.attend(x, **{name: mask}).out)


def test_a_hidden_cell_keeps_its_place() -> None:
    x, keep = torch.zeros(1, 1, 12, 3), torch.ones(1, 12, dtype=torch.bool)
    keep[0, [0, 5]] = False
    for scope in (Neighbourhood(3, 4, 1), {"name": "neighbourhood", "height": 3, "width": 4, "radius": 1}):
        weights = weights_of(qkv.attend(x, x, x, scope=scope, keep=keep))[0, 0]
        assert weights[6].nonzero().flatten().tolist() == [1, 2, 3, 6, 7, 9, 10, 11]
        assert weights[0].nonzero().flatten().tolist() == [1, 4]


def test_a_neighbourhood_never_makes_a_tensor_of_all_pairs() -> None:
    grid = (48, 48, 2)
    for score in (None, Additive(3)):
        attention, x = layer(grid, score=score), cells(grid)[:1]
        with Largest() as largest:
            attention(x).sum().backward()
        pairs = tiles.cut_into_tiles(grid).keys_per_tile * x.shape[1]
        assert largest.elements <= H * pairs * (1 if score is None else 3)
        assert pairs < x.shape[1] ** 2 / 4


@pytest.mark.parametrize(
    ("causal", "queries", "keys"), [(False, 11, 11), (False, 13, 13), (True, 13, 13), (False, 5, 4)]
)
def test_another_number_of_keys_is_refused(causal: bool, queries: int, keys: int) -> None:
    attention = Attention(6, scope=Neighbourhood(3, 4, 1), causal=causal)
    x, memory = torch.randn(1, queries, 6), torch.randn(1, keys, 6)
    message = rf"Neighbourhood\(height=3, width=4\) needs 3·4 = 12 keys, one for every cell, got {keys}: set"
    for call in (attention, attention.attend):
        with pytest.raises(BadShape, match=message):
            call(x, None if queries == keys else memory)


def test_causal_steps_end_with_the_grid() -> None:
    attention, x = Attention(6, 2, scope=Neighbourhood(3, 4, 1), causal=True).double(), torch.randn(1, 13, 6)
    state, outs = attention.start(batch=1), []
    for t in range(12):
        out, state = attention.step(x[:, t].double(), state)
        outs.append(out)
    close(torch.stack(outs, 1), attention(x[:, :12].double()))
    with pytest.raises(BadShape, match="needs 3·4 = 12 keys, one for every cell, got 13"):
        attention.step(x[:, 12].double(), state)


def test_tiles_compile_as_one_graph(small_tiles: None, unchecked: None) -> None:
    torch.compiler.reset()
    attention, x = layer(GRIDS[1]), cells(GRIDS[1])
    close(torch.compile(attention, fullgraph=True, backend="eager")(x), attention(x))
    close(torch.export.export(attention, (x,)).module()(x), attention(x))
