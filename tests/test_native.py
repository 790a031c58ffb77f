"""The native engine against the torch route in float64, at sizes that cross the edges of its chunks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from qkv.kernel import RFA, Elu, Favor, native
from qkv.kernel.given import Given
from qkv.kernel.kind import MAPS as NUMBERS
from qkv.kernel.linear import Linear
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

pytestmark = pytest.mark.skipif(not native.available(), reason="the native engine is not built here")

MAPS = {
    "rfa": RFA(11, temperature=0.7),
    "sharp": RFA(5, temperature=0.3),
    "lengths": RFA(4, normalise=False),
    "arccos": RFA(19, "arccos"),
    "arccos-lengths": RFA(11, "arccos", normalise=False),
    "many": RFA(50),
    "gate-many": RFA(41, gate=True, temperature=0.7),
    "favor-many": Favor(70),
    "gate": RFA(7, gate=True, temperature=0.7),
    "gate-lengths": RFA(4, gate=True, normalise=False),
    "favor": Favor(13),
    "elu": Elu(),
}
every_map = pytest.mark.parametrize("name", MAPS)
# A gate is causal: what comes before and what comes after is the whole point.
every_route = pytest.mark.parametrize(
    ("name", "causal"),
    [(name, causal) for name in MAPS for causal in (True, False) if causal or "gate" not in name],
)
Inputs = tuple[Tensor, Tensor, Tensor, Given]


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cores(name: str, dims: Dims, causal: bool) -> tuple[Linear, Linear]:
    """The same attention in float32 and in float64, where torch computes it."""
    made = []
    for _ in range(2):
        choice = Choice(None, Global(), Soft(), MAPS[name], causal)
        made.append(MAPS[name].build_core(dims, choice, torch.Generator().manual_seed(3)).eval())
    torch.manual_seed(4)
    with torch.no_grad():
        for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
            one += 0.3 * torch.randn_like(one)
            other.copy_(one)
    return made[0], made[1].double()


def inputs(name: str, dims: Dims, batch: int, queries: int, keys: int, masked: bool = False) -> Inputs:
    torch.manual_seed(queries + keys)
    q = torch.randn(batch, dims.heads, queries, dims.query)
    k, v = torch.randn(batch, dims.heads, keys, dims.key), torch.randn(batch, dims.heads, keys, dims.value)
    keep = torch.rand(batch, keys) < 0.7 if masked else None
    gate = 2 * torch.randn(batch, dims.heads, keys) + 1 if "gate" in name else None
    return q, k, v, Given(keep=keep, gate=gate)


def doubled(given: Given) -> Given:
    return given._replace(gate=None if given.gate is None else given.gate.double())


def part(inputs: Inputs, now: slice) -> Inputs:
    q, k, v, given = inputs
    keep = None if given.keep is None else given.keep[:, now]
    gate = None if given.gate is None else given.gate[:, :, now]
    return q[:, :, now], k[:, :, now], v[:, :, now], Given(keep=keep, gate=gate)


def by_torch(call: Callable[[], Any]) -> Any:
    """What float32 gives along the torch route."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FEWEST", 1 << 60)
        return call()


def as_close(call: Callable[[], Tensor], expected: Tensor) -> None:
    """The native route is within 2e-5, or no further off than twice what float32 costs torch itself: a small
    denominator magnifies every rounding.
    """
    least = 2 * (by_torch(call).double() - expected).abs().max().item()
    torch.testing.assert_close(call().double(), expected, rtol=2e-5, atol=max(least, 2e-5))


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
    assert "native engine" in core.explain(length, length)
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


SPLIT = [("rfa", True), ("rfa", False), ("gate-lengths", True), ("favor", True), ("favor", False)]


@pytest.mark.parametrize(("name", "causal"), SPLIT)
def test_few_heads_are_split_over_the_sequence(name: str, causal: bool) -> None:
    dims = Dims(1, 5, 5, 7)
    core, reference = cores(name, dims, causal)
    q, k, v, given = inputs(name, dims, 1, 1000, 1000, masked=True)
    alone = core(q, k, v, given)
    torch.set_num_threads(3)
    as_close(lambda: core(q, k, v, given), reference(q.double(), k.double(), v.double(), doubled(given)))
    assert not torch.equal(core(q, k, v, given), alone)  # summed in another order


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


def gradients(core: Linear, inputs: Inputs, weights: Tensor) -> list[Tensor]:
    """Of a weighted sum of the outputs: q, k, v, the gate's logits where there is one, and the bandwidth."""
    q, k, v, given = inputs
    dtype = weights.dtype
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    gate = None if given.gate is None else given.gate.to(dtype).requires_grad_()
    out = core(*leaves, given._replace(gate=gate))
    wanted = [*leaves, *([] if gate is None else [gate]), *core.parameters()]
    return list(torch.autograd.grad((out * weights).sum(), wanted))


def gradients_are_close(core: Linear, reference: Linear, inputs: Inputs, weights: Tensor) -> None:
    """The native route is within 1e-4, or no further off than three times what float32 costs torch itself."""
    found, expected = gradients(core, inputs, weights), gradients(reference, inputs, weights.double())
    by_float = by_torch(lambda: gradients(core, inputs, weights))
    for a, e, t in zip(found, expected, by_float, strict=True):
        # Where all value columns cancel, as for a query that sees one key, their roundings are left.
        left = 1e-6 * (8 + weights.shape[-1])
        most = max(3 * (t - e).abs().max().item(), 1e-4 * e.abs().max().item(), left)
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=most)


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
        loss = (out.out * weights.to(dtype)).sum() + state.sums.square().sum() + state.plain.square().sum()
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


@pytest.mark.parametrize("name", ["rfa", "gate", "favor", "elu"])
def test_the_operators_keep_torchs_rules(name: str) -> None:
    dims = Dims(3, 5, 5, 7)
    q, k, v, _ = inputs(name, dims, 2, 10, 10)
    features = cores(name, dims, True)[0].features
    kind = features.kind(features.draw())
    masses = [(-torch.rand(2, 3, 10)).requires_grad_() for _ in range(2)] if name == "gate" else [None, None]
    leaves = [x.requires_grad_() for x in (q, k, v)]
    numbers = (NUMBERS[kind.map], kind.unit, True, kind.square, 1e-2)
    matrix = None if kind.matrix is None else kind.matrix.detach().requires_grad_()
    given = (*leaves, matrix, None, *masses, None, None, None, *numbers)
    torch.library.opcheck(native.linear_attention, given)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, on the way
def test_forward_mode_derivatives_go_through_torch() -> None:
    core, _ = cores("elu", Dims(1, 5, 5, 7), True)
    q, k, v, given = inputs("elu", Dims(1, 5, 5, 7), 1, 20, 20)
    with forward_ad.dual_level():
        moved = forward_ad.make_dual(q, torch.randn_like(q))
        assert forward_ad.unpack_dual(core(moved, k, v, given)).tangent is not None
