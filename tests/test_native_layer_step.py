"""A decoding step in one native call: the same numbers as through the parts of the layer."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv import RFA, Attention, Elu, Favor
from qkv.errors import BadShape
from qkv.kernel import native
from qkv.kernel.native import layer_step, library

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
KERNELS = {"rfa": RFA(19), "arccos": RFA(5, "arccos"), "favor": Favor(11), "elu": Elu()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the native functions that `layer_step` ran."""
    names: list[str] = []

    def record(name: str, structure: Any) -> None:
        names.append(name)
        library.call_library_function(name, structure)

    monkeypatch.setattr(layer_step, "call_library_function", record)
    return names


def make_layer(kernel: Any, **options: Any) -> Attention:
    torch.manual_seed(1)
    layer = Attention(**{"d_model": 21, "heads": 3, "kernel": kernel, "causal": True, **options}).eval()
    for bias in (layer.to_q.bias, layer.to_kv.bias, layer.to_out.bias):
        if bias is not None:
            nn.init.normal_(bias)
    return layer


@torch.no_grad()
def run_steps(layer: Attention, x: Tensor, sizes: list[int]) -> Tensor:
    state = layer.start(batch=len(x))
    outs = []
    for part in x.split(sizes, 1):
        out, state = layer.step(part, state)
        outs.append(out)
    return torch.cat(outs, 1)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_it_equals_the_whole_sequence_in_float64(calls: list[str], name: str, batch: int) -> None:
    layer, x = make_layer(KERNELS[name]), torch.randn(batch, 12, 21)
    outputs = run_steps(layer, x, [1, 1, 2, 1, 5, 2])
    # More than 32 rows go through the parts.
    assert calls == ["qkv_layer_step"] * (5 if batch == 16 else 6)
    with torch.no_grad():
        expected = layer.double()(x.double())
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_equals_the_parts_on_any_number_of_threads(calls: list[str], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = make_layer(RFA(64), d_model=512, heads=8, bias=False), torch.randn(4, 3, 512)
        outputs = run_steps(layer, x, [1, 1, 1])
        assert calls == ["qkv_layer_step"] * 3
        layer.to_q.register_forward_hook(lambda *_: None)
        torch.testing.assert_close(outputs, run_steps(layer, x, [1, 1, 1]), rtol=1e-4, atol=1e-5)
        assert calls == ["qkv_layer_step"] * 3
    finally:
        torch.set_num_threads(before)


def test_a_single_position_without_its_dimension_is_accepted(calls: list[str]) -> None:
    layer, x = make_layer(Elu()), torch.randn(2, 2, 21)
    with torch.no_grad():
        out, state = layer.step(x[:, 0], layer.start(batch=2))
        second, _ = layer.step(x[:, 1].mT.contiguous().mT, state)
    assert calls == ["qkv_layer_step"] * 2
    torch.testing.assert_close(torch.stack([out, second], 1), run_steps(layer, x, [2]))


def test_a_step_does_not_change_the_state_before_it() -> None:
    layer, x = make_layer(Favor(8)), torch.randn(2, 2, 21)
    with torch.no_grad():
        _, state = layer.step(x[:, :1], layer.start(batch=2))
        before = [part.clone() for part in state.core[:3]]
        first, _ = layer.step(x[:, 1:], state)
        again, _ = layer.step(x[:, 1:], state)
    assert torch.equal(first, again)
    assert all(torch.equal(*pair) for pair in zip(before, state.core[:3], strict=True))


def add_hook(layer: Attention) -> None:
    layer.to_out.register_forward_hook(lambda *_: None)


def replace_layer(layer: Attention) -> None:
    layer.to_kv = nn.Sequential(layer.to_kv)  # pyright: ignore[reportAttributeAccessIssue]


def convert_to_float64(layer: Attention) -> None:
    layer.double()


@pytest.mark.parametrize("change", [add_hook, replace_layer, convert_to_float64])
def test_modified_layers_are_called(calls: list[str], change: Any) -> None:
    layer = make_layer(RFA(5))
    change(layer)
    x = torch.randn(3, 2, 21, dtype=next(layer.parameters()).dtype)
    with torch.no_grad():
        torch.testing.assert_close(run_steps(layer, x, [1, 1]), layer(x), rtol=1e-4, atol=1e-5)
    assert not calls


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (RFA(5, gate=True), {}),
        (RFA(5, normalise=False), {}),
        (RFA(5, "arccos", normalise=False), {}),
        (RFA(5), {"kv_heads": 1}),
        (RFA(5), {"heads": 1, "project": False}),
    ],
)
def test_unsupported_options_run_through_the_parts(
    calls: list[str], kernel: Any, options: dict[str, Any]
) -> None:
    sizes = {"d_model": 21, "heads": 3, "causal": True, "kernel": kernel}
    layer, x = Attention(**{**sizes, **options}).eval(), torch.randn(3, 4, 21)
    with torch.no_grad():
        torch.testing.assert_close(run_steps(layer, x, [1, 2, 1]), layer(x), rtol=1e-4, atol=1e-5)
    assert not calls


def test_gradients_padding_and_weights_run_through_the_parts(calls: list[str]) -> None:
    layer, x = make_layer(RFA(5)), torch.randn(2, 2, 21)
    out, _ = layer.step(x[:, :1], layer.start(batch=2))
    assert out.requires_grad
    with torch.no_grad():
        layer.step(x, layer.start(batch=2), keep=torch.tensor([[True, False], [True, True]]))
        attended, _ = layer.attend_step(x, layer.start(batch=2, return_weights=True))
        assert attended.weights is not None
        with torch.autocast("cpu", torch.bfloat16):
            layer.step(x, layer.start(batch=2))
    assert not calls


def test_shapes_that_do_not_fit_raise_as_through_the_parts(unchecked: None) -> None:
    layer, x = make_layer(RFA(5), d_memory=9), torch.randn(2, 21)
    with torch.no_grad(), pytest.raises(BadShape, match=r"memory must be \[batch, positions, 9\]"):
        layer.step(x, layer.start(batch=2))


def test_a_state_of_another_map_raises() -> None:
    layer, other = make_layer(RFA(5)), make_layer(RFA(6))
    with torch.no_grad(), pytest.raises(BadShape, match="pass a state that this layer started"):
        layer.step(torch.randn(2, 1, 21), other.start(batch=2))


def test_biases_with_strides_are_read_correctly(calls: list[str]) -> None:
    layer, x = make_layer(RFA(5)), torch.randn(2, 2, 21)
    layer.to_out.bias = nn.Parameter(torch.randn(21, 2)[:, 0])
    with torch.no_grad():
        torch.testing.assert_close(run_steps(layer, x, [1, 1]), layer(x), rtol=1e-4, atol=1e-5)
    assert not calls


def test_the_default_device_does_not_affect_the_engine() -> None:
    layer, x = make_layer(RFA(5)), torch.randn(2, 40, 21)
    with torch.no_grad():
        state = layer.start(batch=2)
        with torch.device("meta"):
            out, _ = layer.step(x[:, :1], state)
            all_at_once = layer(x)
    torch.testing.assert_close(out, all_at_once[:, :1], rtol=1e-4, atol=1e-5)


def test_all_jobs_run_when_thread_numbers_collide() -> None:
    program = """
import threading, torch
from qkv import RFA
from tests.test_native_layer_step import make_layer, run_steps
layer, x = make_layer(RFA(64), d_model=512, heads=8), torch.randn(4, 1, 512)
def at(threads):
    torch.set_num_threads(threads)
    return run_steps(layer, x, [1])
expected = at(2)
for _ in range(2):
    other = threading.Thread(target=at, args=(1,))
    other.start(), other.join()
    for threads in (3, 2, 4):
        torch.testing.assert_close(at(threads), expected)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
