"""Second derivatives of the native engine, by torch's operators, against the torch route in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from native_cases import (
    Inputs,
    by_torch,
    cores,
    every_route,
    inputs,
    part,
    pytestmark,  # noqa: F401 -- pytest reads it
)
from qkv.kernel.linear import Linear
from qkv.kernel.native import compute_additive_scores
from qkv.layer import Attention
from qkv.score import Additive
from qkv.score import additive as additive_module
from qkv.shapes import Dims

DIMS = Dims(2, 5, 5, 7)


def twice(loss: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The gradients of `loss`, and those of a product of these with fixed random numbers."""
    first = torch.autograd.grad(loss(), leaves, create_graph=True)
    numbers = torch.Generator().manual_seed(5)
    weights = [torch.randn(x.shape, generator=numbers, dtype=torch.float64).to(x) for x in first]
    product = torch.stack([(x * w).sum() for x, w in zip(first, weights, strict=True)]).sum()
    second = torch.autograd.grad(product, leaves, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (*first, *second)]


def of_core(core: Linear, given_inputs: Inputs, weights: Tensor) -> list[Tensor]:
    """Of q, k, v, the gate's logits and the bandwidth; the keys are made of the queries too."""
    q, k, v, given = given_inputs
    q, k, v = (x.to(weights.dtype).requires_grad_() for x in (q, k, v))
    gate = None if given.gate is None else given.gate.to(weights.dtype).requires_grad_()
    keys = k + 0.3 * q if q.shape == k.shape else k
    leaves = [q, k, v, *([] if gate is None else [gate]), *core.parameters()]
    return twice(lambda: (core(q, keys, v, given._replace(gate=gate)) * weights).sum(), leaves)


def all_close(found: list[Tensor], by_float: list[Tensor], expected: list[Tensor]) -> None:
    """Within 2e-4 or three times what float32 costs torch itself; where all cancels, 1e-4 of the largest."""
    largest = max(e.abs().max().item() for e in expected)
    for a, t, e in zip(found, by_float, expected, strict=True):
        most = max(3 * (t - e).abs().max().item(), 2e-4 * e.abs().max().item(), 1e-4 * largest)
        torch.testing.assert_close(a.double(), e, rtol=2e-4, atol=most)


@every_route
@pytest.mark.parametrize(
    ("queries", "keys", "masked"), [(1, 1, False), (4, 4, True), (70, 70, True), (20, 33, True)]
)
def test_second_derivatives_equal_those_of_the_torch_route(
    name: str, causal: bool, queries: int, keys: int, masked: bool
) -> None:
    core, reference = cores(name, DIMS, causal)
    given, weights = inputs(name, DIMS, 2, queries, keys, masked), torch.randn(2, 2, queries, 7)
    by_float = by_torch(lambda: of_core(core, given, weights))
    all_close(of_core(core, given, weights), by_float, of_core(reference, given, weights.double()))


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "favor", "elu"])
def test_second_derivatives_of_long_sequences_on_several_threads(name: str) -> None:
    torch.set_num_threads(3)
    dims = Dims(1, 5, 5, 7)
    core, reference = cores(name, dims, True)
    given, weights = inputs(name, dims, 1, 1030, 1030, masked=True), torch.randn(1, 1, 1030, 7)
    by_float = by_torch(lambda: of_core(core, given, weights))
    all_close(of_core(core, given, weights), by_float, of_core(reference, given, weights.double()))


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "favor", "elu"])
def test_second_derivatives_reach_keys_through_a_state(name: str) -> None:
    whole = inputs(name, DIMS, 2, 40, 40, masked=True)

    def through(core: Linear, dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_() for x in whole[:3])
        gate = None if whole[3].gate is None else whole[3].gate.to(dtype)
        mine = (q, k, v, whole[3]._replace(gate=gate))

        def loss() -> Tensor:
            out, state = core.extend(core.start(*part(mine, slice(20))[1:]), *part(mine, slice(20, None)))
            return out.out.square().sum() + state.feature_sums.square().sum() + state.plain_sums.sin().sum()

        return twice(loss, [q, k, v, *core.parameters()])

    core, reference = cores(name, DIMS, True)
    by_float = by_torch(lambda: through(core, torch.float32))
    all_close(through(core, torch.float32), by_float, through(reference, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_asking_for_second_derivatives_changes_no_first(dtype: torch.dtype) -> None:
    core, _ = cores("gate", DIMS, True)
    q, k, v, given = inputs("gate", DIMS, 2, 33, 33, masked=True)
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    loss = core(*leaves, given).float().square().sum()
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves, create_graph=True)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for a, b in zip(again, once, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.detach(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1), (2, 3, 5, 7, 11), (1, 2, 33, 65, 9), (2, 2, 0, 3, 5), (2, 2, 3, 0, 5)]
)
def test_second_derivatives_of_additive_scores(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.kernel.query_blocks.BLOCK_NUMBERS", 2000)  # several blocks of queries
    batch, heads, queries, keys, width = sizes
    shapes = ((batch, heads, queries, width), (batch, heads, keys, width), (heads, width))
    made = [torch.randn(shape) for shape in shapes]

    def of(score: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in made]
        return twice(lambda: score(*leaves).square().sum(), leaves)

    found, expected = of(compute_additive_scores, torch.float32), of(additive_module.additive, torch.float64)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a.double(), e, rtol=1e-4, atol=1e-4 * max([1.0, *e.abs().flatten().tolist()])
        )


def test_a_penalty_on_the_gradient_of_a_layer_trains_it() -> None:
    """What a gradient penalty needs: the gradient, with respect to weights, of a norm of a gradient."""
    layer = Attention(12, 2, score=Additive(9))
    exact = Attention(12, 2, score=Additive(9)).double()
    exact.load_state_dict(layer.state_dict())

    def penalty(layer: Attention, x: Tensor) -> list[Tensor]:
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        return [p.grad for p in layer.parameters() if p.grad is not None]

    x = torch.randn(2, 9, 12)
    found = penalty(layer, x.clone().requires_grad_())
    expected = penalty(exact, x.double().requires_grad_())
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-3, atol=1e-4 * e.abs().max().item())
