"""Inputs at the limits of the native engine: huge, infinite, NaN, empty, or of another shape."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from native_cases import (
    by_torch,
    cores,
    doubled,
    inputs,
    part,
    pytestmark,  # noqa: F401 -- pytest reads it
)
from qkv.errors import BadShape
from qkv.kernel import RFA, native
from qkv.kernel.linear import Linear
from qkv.kernel.masking import Masking
from qkv.layer import Attention
from qkv.shapes import Dims

DIMS = Dims(2, 5, 5, 7)
some_maps = pytest.mark.parametrize(
    "name", ["rfa", "lengths", "arccos", "arccos-lengths", "gate", "gate-lengths", "favor", "elu"]
)


def with_gradients(core: Linear, tensors: list[Tensor], given: Masking) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = core(*leaves, given)
    return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]


@some_maps
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("size", [1e6, 1e8, 1e17])
def test_huge_inputs_are_as_finite_as_on_the_torch_route(
    name: str, causal: bool, length: int, size: float
) -> None:
    core, reference = cores(name, DIMS, causal or "gate" in name)
    q, k, v, given = inputs(name, DIMS, 2, length, length, masked=True)
    tensors = [size * q, size * k, v]
    found, by_float = (
        with_gradients(core, tensors, given),
        by_torch(lambda: with_gradients(core, tensors, given)),
    )
    for a, t in zip(found, by_float, strict=True):
        assert torch.equal(a.isfinite(), t.isfinite())
    exact = reference(*(x.double() for x in tensors), doubled(given))
    # Angles so large are noise in float32, and what is made of unit vectors or of masses is not.
    error = max(3 * (by_float[0].double() - exact).abs().max().item(), 1e-4)
    torch.testing.assert_close(found[0].double(), exact, rtol=0, atol=error)


@pytest.mark.parametrize("length", [1, 4, 33])
@pytest.mark.parametrize("size", [3e4, 1e5, 1e7, 1e8, 1e20, 3e38])
def test_sin_and_cos_of_any_angle(length: int, size: float) -> None:
    """One feature of one number: φ(x) is (sin x, cos x), and the sums of one key show it."""
    core, _ = cores("rfa", Dims(1, 1, 1, 1), True)
    kind = core.features.describe_for_backends(torch.ones(1, 11, 1))._replace(
        scales_to_unit_length=False, matrix=torch.ones(1, 1, 1)
    )
    k = (size * torch.linspace(-1, 1, length)).view(1, 1, length, 1)
    for s in range(length):
        alone = k[:, :, s : s + 1]
        for causal in (True, False):
            sums = native.compute_linear_attention(
                kind, (alone, alone, torch.ones_like(alone)), None, None, None, causal, 0.1
            )[1]
            angle = float(alone)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            torch.testing.assert_close(sums.feature_sums[0, 0, :, 0], expected, rtol=0, atol=2e-6)


@some_maps
@pytest.mark.parametrize("length", [4, 33])
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_is_not_a_number_shows(name: str, length: int, junk: float, where: int) -> None:
    core, _ = cores(name, DIMS, True)
    q, k, v, given = inputs(name, DIMS, 2, length, length)
    for tensor in (q, k, v)[where : where + 1]:
        tensor[0, 0, -1, 0] = junk
    found, by_float = core(q, k, v, given), by_torch(lambda: core(q, k, v, given))
    assert torch.equal(found[0, 0, -1].isfinite(), by_float[0, 0, -1].isfinite())
    assert torch.equal(found[1].isfinite(), torch.ones_like(found[1], dtype=torch.bool))


EMPTY = [sizes for sizes in itertools.product((0, 2), (0, 1, 40), (0, 2, 33)) if 0 in sizes]


@some_maps
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_sequences_and_batches(name: str, dtype: torch.dtype) -> None:
    """Nothing to attend to gives 0, nothing to attend from gives nothing, and gradients are there."""
    for (batch, queries, keys), causal in itertools.product(EMPTY, (True, False)):
        if not causal and "gate" in name:
            continue
        core = cores(name, DIMS, causal)[dtype == torch.float64]
        q, k, v, given = inputs(name, DIMS, batch, queries, keys, masked=keys > 1)
        given = given if dtype == torch.float32 else doubled(given)
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        for out in (core(*leaves, given), core.attend(leaves[0], leaves[1], leaves[2], given).out):
            assert out.shape == (batch, 2, queries, 7)
            assert not out.any()
            for grad in torch.autograd.grad(out.sum(), leaves, allow_unused=True):
                assert grad is None or not grad.any()


@some_maps
@pytest.mark.parametrize("return_weights", [False, True])
def test_steps_of_no_positions(name: str, return_weights: bool) -> None:
    core, _ = cores(name, DIMS, True)
    whole = inputs(name, DIMS, 2, 5, 5)
    state = core.start(*part(whole, slice(0))[1:], return_weights=return_weights)
    for now in (slice(0), slice(0, 3), slice(3, 3), slice(3, 5), slice(5, 5)):
        attended, state = core.extend(state, *part(whole, now))
        assert attended.out.shape == (2, 2, len(range(*now.indices(5))), 7)
    expected = core.extend(core.start(*part(whole, slice(0))[1:]), *whole)[1]
    torch.testing.assert_close(state.feature_sums, expected.feature_sums)


@pytest.mark.parametrize("part", [RFA(7, gate=True), RFA(7, gate=True, kernel="arccos", normalise=False)])
def test_a_gated_layer_of_no_queries(part: RFA) -> None:
    layer = Attention(8, 2, kernel=part, causal=True)
    for queries in (0, 1, 5):
        attended = layer.attend(torch.randn(2, queries, 8))
        assert attended.out.shape == (2, queries, 8)
    cross = Attention(8, 2, kernel=part, causal=True)
    assert cross.attend(torch.randn(2, 0, 8), torch.randn(2, 5, 8)).out.shape == (2, 0, 8)


def test_widths_of_nothing() -> None:
    for width, value in ((0, 3), (3, 0), (0, 0)):
        core, _ = cores("elu", Dims(1, width, width, value), True)
        q, k, v = torch.randn(1, 1, 40, width), torch.randn(1, 1, 40, width), torch.randn(1, 1, 40, value)
        assert core(q, k, v).shape == (1, 1, 40, value)


def test_a_view_that_negates_is_read_as_what_it_shows() -> None:
    core, _ = cores("elu", DIMS, True)
    q, k, v, given = inputs("elu", DIMS, 2, 40, 40)
    negate = torch._neg_view  # pyright: ignore[reportPrivateImportUsage]
    negated = [negate(x) for x in (q, k, v)]  # as the imaginary part of a conjugate is
    torch.testing.assert_close(
        core(negated[0], negated[1], negated[2], given), core(-q, -k, -v, given), rtol=0, atol=0
    )


def test_tensors_that_do_not_fit_together_are_refused(unchecked: None) -> None:
    """The engine would read past the end of the smaller one."""
    core, _ = cores("gate", DIMS, True)
    q, k, v, given = inputs("gate", DIMS, 4, 9, 9, masked=True)
    assert given.keep is not None
    assert given.gate is not None
    keep, gate = given.keep, given.gate
    few = core.start(k[:2, :, :0], v[:2, :, :0], Masking(gate=gate[:2, :, :0]))
    for call in (
        lambda: core.extend(few, q, k, v, given),
        lambda: core(q, k, v, given._replace(keep=keep[:, :5])),
        lambda: core(q, k, v[:, :, :5], given),
        lambda: core(q[..., :4], k, v, given),
    ):
        with pytest.raises((BadShape, RuntimeError)):
            call()


def test_gates_of_another_type_are_converted() -> None:
    core, _ = cores("gate", DIMS, True)
    q, k, v, given = inputs("gate", DIMS, 2, 40, 40)
    torch.testing.assert_close(core(q, k, v, doubled(given)), core(q, k, v, given))
