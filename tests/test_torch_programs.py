"""Programs that torch.jit, torch.export, make_fx and torch.fx record compute what the layer computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import qkv
from qkv.model.positions import Sinusoids
from torch_tool_cases import (
    EVERY,
    HEADS,
    TOOL_MARKS,
    WIDTH,
    Model,
    agree,
    close,
    every_kind,
    inputs,
    most_kinds,
    twins,
)

pytestmark = TOOL_MARKS


@every_kind
def test_traced_by_jit(kind: str) -> None:
    model = Model(kind).eval()
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, inputs(2, 10))
        agree(traced, model)


@pytest.mark.parametrize("need_weights", [True, False])
def test_traced_drop_in_with_a_mask_that_adds(need_weights: bool) -> None:
    x, mask = torch.randn(2, 10, WIDTH), torch.zeros(10, 10)
    for layer in twins():

        class Masked(nn.Module):
            def __init__(self, layer: nn.Module) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor, mask: Tensor) -> Tensor:
                return self.layer(x, x, x, attn_mask=mask, need_weights=need_weights)[0]

        model = Masked(layer.eval())
        with torch.no_grad():
            traced: Any = torch.jit.trace(model, (x, mask))
            for length in (10, 13):
                other = torch.randn(3, length, WIDTH), torch.randn(length, length)
                close(traced(*other), model(*other))


def export(model: nn.Module, strict: bool, least: int = 1) -> Callable[..., Tensor]:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=least, max=2048)
    shapes = {"x": {0: batch, 1: length}, "keep": {0: batch, 1: length}}
    with torch.no_grad():
        return torch.export.export(model, inputs(2, 70), dynamic_shapes=shapes, strict=strict).module()


@most_kinds
def test_exported_with_any_batch_and_length(kind: str) -> None:
    model = Model(kind).eval()
    agree(export(model, strict=False), model)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("torch", "drop-in, rfa", "window") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in EVERY
    ],
)
def test_exported_strictly(kind: str) -> None:
    model = Model(kind).eval()
    agree(export(model, strict=True), model)


@pytest.mark.parametrize("kind", ["window", "rfa with lengths"])
def test_exported_for_long_inputs_only(kind: str) -> None:
    """There the fast routes hold for every size, and are recorded."""
    model = Model(kind).eval()
    agree(export(model, strict=False, least=66), model, [(3, 70), (2, 600)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(o, marks=pytest.mark.slow)
            for o in ({"score": qkv.Additive()}, {"scope": qkv.Predictive(2)})
        ),
    ],
)
def test_exported_attention_to_a_memory(options: dict[str, Any]) -> None:
    class Reader(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.layer = qkv.Attention(WIDTH, HEADS, d_memory=6, **options)

        def forward(self, x: Tensor, memory: Tensor, keep: Tensor, bias: Tensor) -> Tensor:
            return self.layer(x, memory, keep=keep, bias=bias)

    batch, queries, keys = (torch.export.Dim(name, min=2, max=1024) for name in ("batch", "queries", "keys"))
    shapes = ({0: batch, 1: queries}, {0: batch, 1: keys}, {0: batch, 1: keys}, {0: queries, 1: keys})

    def given(batch: int, queries: int, keys: int) -> tuple[Tensor, ...]:
        x, memory = torch.randn(batch, queries, WIDTH), torch.randn(batch, keys, 6)
        return x, memory, torch.rand(batch, keys) < 0.7, torch.randn(queries, keys)

    model = Reader(**options).eval()
    exported = torch.export.export(model, given(2, 5, 7), dynamic_shapes=shapes).module()
    for sizes in ((3, 4, 9), (2, 700, 3)):
        other = given(*sizes)
        close(exported(*other), model(*other), 3e-5)


@pytest.mark.parametrize(
    "kind", ["torch", "drop-in", "drop-in, rfa", "window", "causal elu", "rfa with a gate"]
)
def test_exported_in_training(kind: str) -> None:
    """The recorded program draws, drops and learns; its shapes are those of the layer."""
    model = Model(kind)
    given = inputs(2, 10)
    exported = torch.export.export(model, given).module()
    exported(*given).sum().backward()
    assert all(parameter.grad is not None for parameter in exported.parameters())


@most_kinds
def test_recorded_by_make_fx(kind: str) -> None:
    model = Model(kind).eval()
    weights = {name: value.detach() for name, value in model.state_dict().items()}

    def call(weights: dict[str, Tensor], x: Tensor, keep: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x, keep))

    with torch.no_grad():
        graph = make_fx(call, tracing_mode="symbolic")(weights, *inputs(5, 11))  # no size of a weight
    agree(lambda x, keep: graph(weights, x, keep), model)


@every_kind
@pytest.mark.parametrize("length", [10, 700])
def test_fake_tensors(kind: str, length: int) -> None:
    with FakeTensorMode():
        model, (x, keep) = Model(kind), inputs(2, length)
        assert model.eval()(x, keep).shape == x.shape
        model.train()(x, keep).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@every_kind
def test_fake_tensors_made_of_a_real_layer(kind: str) -> None:
    model = Model(kind).eval()
    state, given = model.state_dict(), inputs(2, 10)
    with FakeTensorMode() as mode:
        weights: dict[str, Any] = {name: mode.from_tensor(value) for name, value in state.items()}
        x, keep = (mode.from_tensor(part) for part in given)
        assert torch.func.functional_call(model, weights, (x, keep)).shape == x.shape


def test_fake_steps() -> None:
    every: list[dict[str, Any]] = [{}, {"scope": qkv.Window(2)}, {"kernel": qkv.RFA(8)}]
    with FakeTensorMode(), torch.no_grad():
        for options in every:
            layer = qkv.Attention(WIDTH, HEADS, causal=True, **options).eval()
            state = layer.start(batch=2)
            for _ in range(3):
                out, state = layer.step(torch.randn(2, 1, WIDTH), state, keep=torch.ones(2, 1).bool())
            assert out.shape == (2, 1, WIDTH)


@every_kind
def test_leaf_of_an_fx_graph(kind: str) -> None:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, qkv.Attention | nn.MultiheadAttention)

    model = Model(kind).eval()
    graph = torch.fx.GraphModule(model, Tracer().trace(model))
    assert [node.op for node in graph.graph.nodes].count("call_module") == 1
    agree(graph, model)


def test_exported_positions_of_any_length() -> None:
    positions, x = Sinusoids(WIDTH), torch.randn(2, 10, WIDTH)
    length = torch.export.Dim("length", min=2, max=2048)
    exported = torch.export.export(positions, (x,), dynamic_shapes=({1: length},)).module()
    for size in (7, 700):
        longer = torch.randn(2, size, WIDTH)
        close(exported(longer), positions(longer))
