"""Linear layers of few rows through the native engine: the same numbers, and nobody who looks is left out."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from qkv import Attention
from qkv.kernel import native
from qkv.kernel.native import few
from qkv.kernel.native.library import call

needs_engine = pytest.mark.skipif(not native.available(), reason="the native engine is not built here")
SIZES = [(3, 5, 7), (4, 64, 64), (16, 1024, 512), (17, 33, 65), (32, 1, 16), (5, 130, 1)]


def layer_of(width: int, columns: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(width, columns, bias)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine's calls."""
    made: list[str] = []

    def noted(name: str, **fields: object) -> None:
        made.append(name)
        call(name, **fields)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(few, "call", noted)
    return made


def error_of(layer: nn.Linear, x: Tensor) -> float:
    with torch.no_grad():
        expected = layer.double()(x.double())
        return float((few.linear(layer.float(), x) - expected).abs().max())


@needs_engine
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_equals_the_product(calls: list[str], sizes: tuple[int, int, int], bias: bool) -> None:
    rows, columns, width = sizes
    assert error_of(layer_of(width, columns, bias), torch.randn(rows, 1, width)) < 1e-5
    assert calls == ["qkv_few"]


@needs_engine
def test_it_reads_rows_and_weights_that_do_not_lie_side_by_side(calls: list[str]) -> None:
    layer = layer_of(12, 8)
    layer.weight = nn.Parameter(torch.randn(12, 8).mT)
    assert error_of(layer, torch.randn(4, 12, 5).mT[:, ::2]) < 1e-5
    assert calls == ["qkv_few"]


@needs_engine
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_every_instruction_set_gives_the_same(isa: str) -> None:
    told = """
import torch; from tests.test_native_few import SIZES, error_of, layer_of
print(max(error_of(layer_of(d, c), torch.randn(n, d)) for n, c, d in SIZES))
"""
    env = {**os.environ, "QKV_NATIVE_ISA": isa, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    done = subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize("rows", [0, 1, few.LEAST - 1, few.MOST + 1])
def test_fewer_and_more_rows_are_left_to_torch(calls: list[str], rows: int) -> None:
    layer, x = layer_of(8, 6), torch.randn(rows, 8)
    with torch.no_grad():
        assert torch.equal(few.linear(layer, x), layer(x))
    assert not calls


@needs_engine
def test_a_layer_without_columns_gives_none() -> None:
    layer = layer_of(8, 1)
    layer.weight, layer.bias = nn.Parameter(torch.empty(0, 8)), nn.Parameter(torch.empty(0))
    with torch.no_grad():
        assert few.linear(layer, torch.randn(4, 8)).shape == (4, 0)


def test_what_a_layer_was_compiled_to_is_called(calls: list[str]) -> None:
    layer, x = layer_of(8, 6), torch.randn(4, 8)
    layer._compiled_call_impl = lambda x: x[:, :1]
    with torch.no_grad():
        assert torch.equal(few.linear(layer, x), x[:, :1])
    assert not calls


def test_hooks_are_called(calls: list[str]) -> None:
    seen: list[int] = []
    layer = layer_of(8, 6)
    layer.register_forward_hook(lambda module, inputs, out: seen.append(1) or 2 * out)
    with torch.no_grad():
        torch.testing.assert_close(few.linear(layer, torch.ones(4, 8)), 2 * layer.forward(torch.ones(4, 8)))
    assert seen
    assert not calls


def test_what_stands_in_for_a_layer_is_called(calls: list[str]) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer, x = Doubled(8, 6), torch.randn(4, 8)
    patched = layer_of(8, 6)
    patched.forward = lambda input: input[..., :6]
    with torch.no_grad():
        torch.testing.assert_close(few.linear(layer, x), layer(x))
        assert torch.equal(few.linear(patched, x), x[..., :6])
    assert not calls


def test_gradients_other_types_and_autocast_are_left_to_torch(calls: list[str]) -> None:
    layer, x = layer_of(8, 6), torch.randn(4, 8)
    assert few.linear(layer, x).requires_grad
    with torch.no_grad():
        assert few.linear(layer.double(), x.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert few.linear(layer.float(), x).dtype == torch.bfloat16
        mapped = torch.func.vmap(lambda row: few.linear(layer, row))(x[:, None].expand(-1, 4, -1))
        torch.testing.assert_close(mapped, layer(x)[:, None].expand(-1, 4, -1))
    assert not calls


@needs_engine
def test_a_layer_steps_as_it_runs_at_once(calls: list[str]) -> None:
    layer, x = Attention(24, 4, causal=True).eval(), torch.randn(6, 5, 24)
    with torch.no_grad():
        expected, state, outs = layer(x), layer.start(batch=6), []
        for t in range(5):
            out, state = layer.step(x[:, t], state)
            outs.append(out)
    torch.testing.assert_close(torch.stack(outs, 1), expected)
    assert len(calls) >= 15
