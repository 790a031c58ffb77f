"""The native engine against the torch route in float64, at sizes that cross the edges of its chunks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from native_cases import (
    SPLIT,
    Inputs,
    as_close,
    cores,
    doubled,
    every_map,
    every_route,
    gradients,
    gradients_are_close,
    inputs,
    part,
    pytestmark,  # noqa: F401 -- pytest reads it
)
from qkv.kernel.linear import Linear
from qkv.shapes import Dims

# Lengths at the edges of a chunk of 32 tokens and of a decoding step of 4.
LENGTHS = [
    *((1, False), (2, True), (4, True), (5, False), (31, True), (32, False), (33, True)),
    *((63, False), (64, True), (65, False), (1000, True)),
]


@every_route
@pytest.mark.parametrize(("length", "masked"), LENGTHS)
def test_it_equals_the_torch_route(name: str, causal: bool, length: int, masked: bool) -> None:
    dims = Dims(3, 5, 5, 7)
    core, reference = cores(name, dims, causal)
    q, k, v, given = inputs(name, dims, 2, length, length, masked)
    assert "native backend" in core.explain(length, length)
    as_close(lambda: core(q, k, v, given), reference(q.double(), k.double(), v.double(), doubled(given)))


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "gate-many", "favor", "elu"])
@pytest.mark.parametrize(
    ("width", "value"), [(1, 1), (3, 33), (16, 16), (17, 31), (40, 64), (33, 70), (64, 32)]
)
@pytest.mark.parametrize("length", [1, 33])
def test_any_width_fits(name: str, width: int, value: int, length: int) -> None:
    dims = Dims(2, width, width, value)
    core, reference = cores(name, dims, True)
    q, k, v, given = inputs(name, dims, 2, length, length, masked=True)
    as_close(lambda: core(q, k, v, given), reference(q.double(), k.double(), v.double(), doubled(given)))
    weights = torch.randn(2, 2, length, value)
    gradients_are_close(core, reference, (q, k, v, given), weights)


def spread(x: Tensor) -> Tensor:
    """The same numbers as every second column of rows that lie as an attention layer makes them."""
    wide = torch.full((x.shape[0], x.shape[2], x.shape[1], 2 * x.shape[3]), float("nan"))
    wide[..., ::2] = x.transpose(1, 2)
    return wide.transpose(1, 2)[..., ::2]


@pytest.mark.parametrize("length", [3, 65])
def test_it_reads_any_strides(length: int) -> None:
    dims = Dims(3, 5, 5, 7)
    core, _ = cores("rfa", dims, True)
    q, k, v, given = inputs("rfa", dims, 2, length, length, masked=True)
    as_layers_make_them = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    expected = core(q, k, v, given)
    for other in (as_layers_make_them, [spread(x) for x in (q, k, v)]):
        torch.testing.assert_close(core(*other, given), expected, rtol=0, atol=0)
    shared = core(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v), given)
    torch.testing.assert_close(core(q, k[:, :1], v[:, :1], given), shared, rtol=0, atol=0)


@every_map
@pytest.mark.parametrize("at", [1, 40, 64, 135, 137, 139])
def test_a_state_can_be_cut_anywhere(name: str, at: int) -> None:
    dims = Dims(3, 5, 5, 7)
    core, reference = cores(name, dims, True)
    whole = inputs(name, dims, 2, 140, 140, masked=True)
    first, rest = part(whole, slice(at)), part(whole, slice(at, None))
    q, k, v, given = whole
    expected = reference(q.double(), k.double(), v.double(), doubled(given))

    def in_two() -> Tensor:
        nothing = core.start(k[:, :, :0], v[:, :, :0], part(whole, slice(0))[3])
        begun, state = core.extend(nothing, *first)
        return torch.cat([begun.out, core.extend(state, *rest)[0].out], 2)

    as_close(in_two, expected)
    state = core.extend(core.start(*part(whole, slice(0))[1:]), *whole)[1]
    by_reference = reference.start(k.double(), v.double(), doubled(given))
    for found, wanted in zip(state[:3], by_reference[:3], strict=True):
        if isinstance(found, Tensor) and isinstance(wanted, Tensor):
            torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=2e-4)


def decoded(core: Linear, inputs: Inputs) -> tuple[Tensor, Any]:
    """Position by position."""
    q, k, v, _ = inputs
    state, outs = core.start(k[:, :, :0], v[:, :, :0], part(inputs, slice(0))[3]), []
    for t in range(q.shape[2]):
        attended, state = core.extend(state, *part(inputs, slice(t, t + 1)))
        outs.append(attended.out)
    return torch.cat(outs, 2), state


@every_map
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("width", "value"), [(5, 7), (16, 16), (37, 64), (64, 148)])
def test_steps_equal_the_torch_route_and_leave_the_state_they_began_with(
    name: str, width: int, value: int, masked: bool
) -> None:
    dims = Dims(3, width, width, value)
    core, reference = cores(name, dims, True)
    whole = inputs(name, dims, 2, 40, 40, masked)
    q, k, v, given = whole
    expected = reference(q.double(), k.double(), v.double(), doubled(given))
    as_close(lambda: decoded(core, whole)[0], expected)
    state = decoded(core, part(whole, slice(39)))[1]
    copies = [x.clone() for x in state[:3] if x is not None]
    core.extend(state, *part(whole, slice(39, 40)))
    for now, then in zip([x for x in state[:3] if x is not None], copies, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(("name", "causal"), SPLIT)
def test_few_heads_are_split_over_the_sequence(name: str, causal: bool) -> None:
    dims = Dims(1, 5, 5, 7)
    core, reference = cores(name, dims, causal)
    q, k, v, given = inputs(name, dims, 1, 1000, 1000, masked=True)
    alone = core(q, k, v, given)
    torch.set_num_threads(3)
    as_close(lambda: core(q, k, v, given), reference(q.double(), k.double(), v.double(), doubled(given)))
    assert not torch.equal(core(q, k, v, given), alone)  # summed in another order


def test_heads_are_spread_over_threads() -> None:
    dims = Dims(3, 5, 5, 7)
    core, _ = cores("gate", dims, True)
    given = inputs("gate", dims, 2, 200, 200)
    weights = torch.randn(2, 3, 200, 7)
    alone = [core(*given), *gradients(core, given, weights)]
    torch.set_num_threads(2)
    for found, expected in zip([core(*given), *gradients(core, given, weights)], alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_map
def test_bfloat16_is_read_as_it_is_and_summed_in_float32(name: str) -> None:
    dims = Dims(3, 5, 5, 7)
    core, _ = cores(name, dims, True)
    q, k, v, given = inputs(name, dims, 2, 100, 100)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    out = core(q, k, v, given)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, core(q.float(), k.float(), v.float(), given).bfloat16())


@pytest.mark.parametrize("name", ["rfa", "gate-lengths", "favor", "elu"])
def test_padding_is_never_read(name: str) -> None:
    dims = Dims(3, 5, 5, 7)
    core, _ = cores(name, dims, True)
    q, k, v, given = inputs(name, dims, 2, 70, 70, masked=True)
    assert given.keep is not None
    expected = core(q, k, v, given)
    hidden = ~given.keep[:, None, :, None]
    junk = core(q, k.masked_fill(hidden, float("inf")), v.masked_fill(hidden, float("nan")), given)
    assert name == "gate-lengths" or torch.equal(junk, expected)
    nothing = core(q, k, v, given._replace(keep=torch.zeros_like(given.keep)))
    assert not nothing.any()
