"""What the tests of the native engine share: maps, inputs, and the torch route in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.kernel import RFA, Elu, Favor, native
from qkv.kernel.linear import Linear
from qkv.kernel.masking import Masking
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

pytestmark = [
    pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here"),
    pytest.mark.usefixtures("one_thread"),
]
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
Inputs = tuple[Tensor, Tensor, Tensor, Masking]


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
    return q, k, v, Masking(keep=keep, gate=gate)


def doubled(given: Masking) -> Masking:
    return given._replace(gate=None if given.gate is None else given.gate.double())


def part(inputs: Inputs, now: slice) -> Inputs:
    q, k, v, given = inputs
    keep = None if given.keep is None else given.keep[:, now]
    gate = None if given.gate is None else given.gate[:, :, now]
    return q[:, :, now], k[:, :, now], v[:, :, now], Masking(keep=keep, gate=gate)


def by_torch(call: Callable[[], Any]) -> Any:
    """What float32 gives along the torch route."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MIN_POSITIONS", 1 << 60)
        return call()


def as_close(call: Callable[[], Tensor], expected: Tensor) -> None:
    """The native route is within 2e-5, or no further off than twice what float32 costs torch itself: a small
    denominator magnifies every rounding.
    """
    least = 2 * (by_torch(call).double() - expected).abs().max().item()
    torch.testing.assert_close(call().double(), expected, rtol=2e-5, atol=max(least, 2e-5))


SPLIT = [
    *(("rfa", True), ("rfa", False), ("gate-lengths", True), ("favor", True), ("favor", False)),
    *(("elu", True), ("elu", False), ("arccos", False)),
]


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
