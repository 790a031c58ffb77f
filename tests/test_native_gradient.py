"""The gradients of the native engine against those of the torch route in float64."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from native_cases import (
    SPLIT,
    cores,
    every_route,
    gradients,
    gradients_are_close,
    inputs,
    part,
    pytestmark,  # noqa: F401 -- pytest reads it
)
from qkv.kernel import native
from qkv.kernel.feature_map import MAP_NUMBERS as NUMBERS
from qkv.kernel.linear import Linear
from qkv.shapes import Dims


@every_route
@pytest.mark.parametrize(
    ("queries", "keys", "masked"),
    [(1, 1, False), (3, 3, True), (8, 8, False), (65, 65, True), (100, 131, True)],
)
def test_its_gradients_equal_those_of_the_torch_route(
    name: str, causal: bool, queries: int, keys: int, masked: bool
) -> None:
    dims = Dims(3, 5, 5, 7)
    core, reference = cores(name, dims, causal)
    given = inputs(name, dims, 2, queries, keys, masked)
    gradients_are_close(core, reference, given, torch.randn(2, 3, queries, 7))


def compare_through_a_state(name: str, dims: Dims, length: int) -> None:
    """Gradients of outputs and of the last state, that reach the keys before through the state."""
    half = length // 2
    weights = torch.randn(2, dims.heads, half, 7)

    def through(core: Linear, dtype: torch.dtype) -> list[Tensor]:
        q, k, v, given = inputs(name, dims, 2, length, length, masked=True)
        q, k, v = (x.to(dtype).requires_grad_() for x in (q, k, v))
        gate = None if given.gate is None else given.gate.to(dtype)
        whole = (q, k, v, given._replace(gate=gate))
        out, state = core.extend(core.start(*part(whole, slice(half))[1:]), *part(whole, slice(half, None)))
        loss = (
            (out.out * weights.to(dtype)).sum()
            + state.feature_sums.square().sum()
            + state.plain_sums.square().sum()
        )
        return list(torch.autograd.grad(loss, [k, v, *core.parameters()]))

    core, reference = cores(name, dims, True)
    for found, expected in zip(through(core, torch.float32), through(reference, torch.float64), strict=True):
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
        )


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "favor"])
@pytest.mark.parametrize("length", [4, 140])
def test_gradients_run_through_a_state(name: str, length: int) -> None:
    compare_through_a_state(name, Dims(3, 5, 5, 7), length)


@pytest.mark.parametrize(("name", "causal"), SPLIT)
@pytest.mark.parametrize("keys", [600, 1000])
def test_gradients_of_few_heads_are_split_over_the_sequence(name: str, causal: bool, keys: int) -> None:
    dims = Dims(1, 5, 5, 7)
    core, reference = cores(name, dims, causal)
    queries = keys if causal else 800
    given = inputs(name, dims, 1, queries, keys, masked=True)
    weights = torch.randn(1, 1, queries, 7)
    alone = gradients(core, given, weights)
    torch.set_num_threads(3)
    gradients_are_close(core, reference, given, weights)
    assert not all(map(torch.equal, gradients(core, given, weights), alone))  # summed in another order


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "favor"])
def test_gradients_of_few_heads_run_through_a_state(name: str) -> None:
    torch.set_num_threads(3)
    compare_through_a_state(name, Dims(1, 5, 5, 7), 1600)


@pytest.mark.parametrize("name", ["rfa", "gate", "favor", "elu"])
def test_the_operators_keep_torchs_rules(name: str) -> None:
    dims = Dims(3, 5, 5, 7)
    q, k, v, _ = inputs(name, dims, 2, 10, 10)
    features = cores(name, dims, True)[0].features
    kind = features.describe_for_backends(features.choose_projections())
    masses = [(-torch.rand(2, 3, 10)).requires_grad_() for _ in range(2)] if name == "gate" else [None, None]
    leaves = [x.requires_grad_() for x in (q, k, v)]
    numbers = (NUMBERS[kind.map], kind.scales_to_unit_length, True, kind.squared_length_factor, 1e-2)
    matrix = None if kind.matrix is None else kind.matrix.detach().requires_grad_()
    given = (*leaves, matrix, None, *masses, None, None, None, *numbers)
    torch.library.opcheck(native.compute_linear_attention_and_query_sums, given)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, on the way
def test_forward_mode_derivatives_go_through_torch() -> None:
    core, _ = cores("elu", Dims(1, 5, 5, 7), True)
    q, k, v, given = inputs("elu", Dims(1, 5, 5, 7), 1, 20, 20)
    with forward_ad.dual_level():
        moved = forward_ad.make_dual(q, torch.randn_like(q))
        assert forward_ad.unpack_dual(core(moved, k, v, given)).tangent is not None
