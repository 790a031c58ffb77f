"""Linear layers of few rows through the native engine: the same numbers; hooks and subclasses still run."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from qkv import Attention
from qkv.kernel import native
from qkv.kernel.native import small_linear
from qkv.kernel.native.library import fill_structure_and_call_library

needs_engine = pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
SIZES = [(3, 5, 7), (4, 64, 64), (16, 1024, 512), (17, 33, 65), (32, 1, 16), (5, 130, 1)]


def layer_of(width: int, columns: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(width, columns, bias)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the native functions that ran."""
    names: list[str] = []

    def record(name: str, **fields: object) -> None:
        names.append(name)
        fill_structure_and_call_library(name, **fields)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(small_linear, "fill_structure_and_call_library", record)
    return names


def error_of(layer: nn.Linear, x: Tensor) -> float:
    with torch.no_grad():
        expected = layer.double()(x.double())
        return float((small_linear.apply_linear(layer.float(), x) - expected).abs().max())


@needs_engine
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_equals_the_product(calls: list[str], sizes: tuple[int, int, int], bias: bool) -> None:
    rows, columns, width = sizes
    assert error_of(layer_of(width, columns, bias), torch.randn(rows, 1, width)) < 1e-5
    assert calls == ["qkv_small_linear"]


@needs_engine
def test_it_reads_rows_and_weights_with_strides(calls: list[str]) -> None:
    layer = layer_of(12, 8)
    layer.weight = nn.Parameter(torch.randn(12, 8).mT)
    assert error_of(layer, torch.randn(4, 12, 5).mT[:, ::2]) < 1e-5
    assert calls == ["qkv_small_linear"]


@needs_engine
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_every_instruction_set_gives_the_same(isa: str) -> None:
    program = """
import torch; from tests.test_native_small_linear import SIZES, error_of, layer_of
print(max(error_of(layer_of(d, c), torch.randn(n, d)) for n, c, d in SIZES))
"""
    env = {**os.environ, "QKV_NATIVE_ISA": isa, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    process = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert float(process.stdout) < 1e-5


@pytest.mark.parametrize("rows", [0, 1, small_linear.MIN_ROWS - 1, small_linear.MAX_ROWS + 1])
def test_fewer_and_more_rows_run_through_torch(calls: list[str], rows: int) -> None:
    layer, x = layer_of(8, 6), torch.randn(rows, 8)
    with torch.no_grad():
        assert torch.equal(small_linear.apply_linear(layer, x), layer(x))
    assert not calls


@needs_engine
def test_a_layer_without_outputs_returns_an_empty_tensor() -> None:
    layer = layer_of(8, 1)
    layer.weight, layer.bias = nn.Parameter(torch.empty(0, 8)), nn.Parameter(torch.empty(0))
    with torch.no_grad():
        assert small_linear.apply_linear(layer, torch.randn(4, 8)).shape == (4, 0)


def test_a_compiled_layer_runs_what_it_was_compiled_to(calls: list[str]) -> None:
    layer, x = layer_of(8, 6), torch.randn(4, 8)
    layer._compiled_call_impl = lambda x: x[:, :1]
    with torch.no_grad():
        assert torch.equal(small_linear.apply_linear(layer, x), x[:, :1])
    assert not calls


def test_hooks_are_called(calls: list[str]) -> None:
    hook_calls: list[int] = []
    layer = layer_of(8, 6)
    layer.register_forward_hook(lambda module, inputs, out: hook_calls.append(1) or 2 * out)
    with torch.no_grad():
        torch.testing.assert_close(
            small_linear.apply_linear(layer, torch.ones(4, 8)),
            2 * layer.forward(torch.ones(4, 8)),
        )
    assert hook_calls
    assert not calls


def test_a_subclass_and_a_replaced_forward_are_called(calls: list[str]) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer, x = Doubled(8, 6), torch.randn(4, 8)
    patched = layer_of(8, 6)
    patched.forward = lambda input: input[..., :6]
    with torch.no_grad():
        torch.testing.assert_close(small_linear.apply_linear(layer, x), layer(x))
        assert torch.equal(small_linear.apply_linear(patched, x), x[..., :6])
    assert not calls


def test_gradients_other_dtypes_and_autocast_run_through_torch(calls: list[str]) -> None:
    layer, x = layer_of(8, 6), torch.randn(4, 8)
    assert small_linear.apply_linear(layer, x).requires_grad
    with torch.no_grad():
        assert small_linear.apply_linear(layer.double(), x.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert small_linear.apply_linear(layer.float(), x).dtype == torch.bfloat16
        mapped = torch.func.vmap(lambda row: small_linear.apply_linear(layer, row))(
            x[:, None].expand(-1, 4, -1)
        )
        torch.testing.assert_close(mapped, layer(x)[:, None].expand(-1, 4, -1))
    assert not calls


@needs_engine
def test_steps_equal_the_whole_sequence(calls: list[str]) -> None:
    layer, x = Attention(24, 4, causal=True).eval(), torch.randn(6, 5, 24)
    with torch.no_grad():
        expected, state, outs = layer(x), layer.start(batch=6), []
        for t in range(5):
            out, state = layer.step(x[:, t], state)
            outs.append(out)
    torch.testing.assert_close(torch.stack(outs, 1), expected)
    assert len(calls) >= 15
