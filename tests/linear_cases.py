"""What the tests of the linear evaluator share: maps, inputs, and the recurrence that all must equal."""

import pytest
import torch
from torch import Tensor

from qkv.kernel import RFA, Elu, Favor
from qkv.kernel.linear import Linear
from qkv.kernel.masking import Masking
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

B, H, T, D, E = 2, 3, 7, 5, 2
MAPS = {
    "rfa": RFA(4, temperature=0.5),
    "lengths": RFA(4, normalise=False),
    "arccos": RFA(11, "arccos"),
    "arccos-lengths": RFA(11, "arccos", normalise=False),
    "gate": RFA(4, gate=True, temperature=0.5),
    "gate-lengths": RFA(4, gate=True, normalise=False),
    "gate-arccos-lengths": RFA(11, "arccos", gate=True, normalise=False),
    "favor": Favor(4),
    "elu": Elu(),
}
every_map = pytest.mark.parametrize("part", MAPS.values(), ids=MAPS)
every_gate = pytest.mark.parametrize("part", [MAPS[m] for m in MAPS if "gate" in m], ids=lambda p: p.kernel)


def close(actual: object, expected: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def core_of(part: RFA | Favor | Elu, causal: bool = True) -> Linear:
    choice = Choice(None, Global(), Soft(), part, causal)
    core = part.build_core(Dims(H, D, D, E), choice, None).double().eval()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return core


def inputs(
    part: RFA | Favor | Elu, length: int = T, masked: bool = False
) -> tuple[Tensor, Tensor, Tensor, Masking]:
    q, k, v = doubles(B, H, length, D), doubles(B, H, length, D), doubles(B, H, length, E)
    gate = 2 * doubles(B, H, length) if getattr(part, "gate", False) else None
    return q, k, v, Masking(keep=torch.rand(B, length) < 0.6 if masked else None, gate=gate)


def cut(given: Masking, part: slice) -> Masking:
    keep = None if given.keep is None else given.keep[:, part]
    return Masking(keep=keep, gate=None if given.gate is None else given.gate[:, :, part])


def recurrence(core: Linear, q: Tensor, k: Tensor, v: Tensor, given: Masking) -> Tensor:
    """S_t = g_t S_{t-1} + (1 - g_t) m_t φ(k_t) ⊗ [v_t, 1], position by position."""
    projections = core.features.choose_projections()
    phi_q, (phi_k, log_mass) = (
        core.features.map_queries(q, projections),
        core.features.map_keys(k, projections),
    )
    ones = torch.ones_like(v[..., :1])
    v1, mass = torch.cat([v, ones], -1), ones if log_mass is None else log_mass.exp()[..., None]
    state, plain, outs = doubles(1).new_zeros(B, H, phi_k.shape[-1], E + 1), v1.new_zeros(B, H, 1, E + 1), []
    squares = v1.new_zeros(B, H, 1, 1)
    for t in range(q.shape[2]):
        now = slice(t, t + 1)
        g = 1.0 if given.gate is None else given.gate[:, :, now, None].sigmoid()
        write = mass[:, :, now] * (1.0 if given.gate is None else 1 - g)
        fresh = (
            g * state + (write * phi_k[:, :, now]).mT @ v1[:, :, now],
            g * plain + write * v1[:, :, now],
            g**2 * squares + write**2,
        )
        if given.keep is not None:
            real = given.keep[:, t, None, None, None]
            fresh = [torch.where(real, *pair) for pair in zip(fresh, (state, plain, squares), strict=True)]
        state, plain, squares = fresh
        total, n = (phi_q[:, :, now] @ state), plain[..., -1:]
        some = (n > 0).double()
        gap = (core.floor * (squares + 1 - some).sqrt() - total[..., -1:]).clamp_min(0)
        filled = total[..., :-1] + gap * plain[..., :-1] / (n + 1 - some)
        outs.append(filled / (total[..., -1:] + gap + 1 - some))
    return torch.cat(outs, 2)


def routed(core: Linear, short: bool, monkeypatch: pytest.MonkeyPatch) -> Linear:
    monkeypatch.setattr(core, "_is_pairwise_cheaper", lambda *sizes: short)
    return core
