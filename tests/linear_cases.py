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


def assert_close(actual: object, expected: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def randn64(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def build_core(part: RFA | Favor | Elu, causal: bool = True) -> Linear:
    choice = Choice(None, Global(), Soft(), part, causal)
    core = part.build_core(Dims(H, D, D, E), choice, None).double().eval()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return core


def inputs(
    part: RFA | Favor | Elu, length: int = T, masked: bool = False
) -> tuple[Tensor, Tensor, Tensor, Masking]:
    q, k, v = randn64(B, H, length, D), randn64(B, H, length, D), randn64(B, H, length, E)
    gate = 2 * randn64(B, H, length) if getattr(part, "gate", False) else None
    return q, k, v, Masking(keep=torch.rand(B, length) < 0.6 if masked else None, gate=gate)


def slice_masking(masking: Masking, part: slice) -> Masking:
    keep = None if masking.keep is None else masking.keep[:, part]
    return Masking(keep=keep, gate=None if masking.gate is None else masking.gate[:, :, part])


def recurrence(core: Linear, q: Tensor, k: Tensor, v: Tensor, masking: Masking) -> Tensor:
    """S_t = g_t S_{t-1} + (1 - g_t) m_t φ(k_t) ⊗ [v_t, 1], position by position."""
    projections = core.features.choose_projections()
    query_features = core.features.map_queries(q, projections)
    key_features, log_factor = core.features.map_keys(k, projections)
    ones = torch.ones_like(v[..., :1])
    v1, factor = torch.cat([v, ones], -1), ones if log_factor is None else log_factor.exp()[..., None]
    state, plain, outs = (
        randn64(1).new_zeros(B, H, key_features.shape[-1], E + 1),
        v1.new_zeros(B, H, 1, E + 1),
        [],
    )
    squares = v1.new_zeros(B, H, 1, 1)
    for t in range(q.shape[2]):
        position = slice(t, t + 1)
        g = 1.0 if masking.gate is None else masking.gate[:, :, position, None].sigmoid()
        weight = factor[:, :, position] * (1.0 if masking.gate is None else 1 - g)
        updated = (
            g * state + (weight * key_features[:, :, position]).mT @ v1[:, :, position],
            g * plain + weight * v1[:, :, position],
            g**2 * squares + weight**2,
        )
        if masking.keep is not None:
            real = masking.keep[:, t, None, None, None]
            updated = [
                torch.where(real, *pair) for pair in zip(updated, (state, plain, squares), strict=True)
            ]
        state, plain, squares = updated
        total, n = (query_features[:, :, position] @ state), plain[..., -1:]
        has_keys = (n > 0).double()
        deficit = (core.floor * (squares + 1 - has_keys).sqrt() - total[..., -1:]).clamp_min(0)
        filled = total[..., :-1] + deficit * plain[..., :-1] / (n + 1 - has_keys)
        outs.append(filled / (total[..., -1:] + deficit + 1 - has_keys))
    return torch.cat(outs, 2)


def force_route(core: Linear, pairwise: bool, monkeypatch: pytest.MonkeyPatch) -> Linear:
    monkeypatch.setattr(core, "_is_pairwise_cheaper", lambda *sizes: pairwise)
    return core
