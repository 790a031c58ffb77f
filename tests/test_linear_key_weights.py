"""The linear evaluator's masses and gates, and the gradients of all routes."""

from dataclasses import replace

import pytest
import torch

from linear_cases import (
    MAPS,
    B,
    E,
    H,
    assert_close,
    build_core,
    every_gate,
    every_map,
    force_route,
    inputs,
    randn64,
    recurrence,
)
from qkv.errors import BadMask
from qkv.kernel import RFA, chunks
from qkv.kernel.key_weights import compute_key_weights
from qkv.kernel.masking import Masking
from reference.loops import weights_of


@every_map
@pytest.mark.parametrize("route", [True, False], ids=["pairs", "chunks"])
def test_gradients_are_those_of_the_recurrence(
    part: RFA, route: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, 70, masked=True)
    leaves = [x.requires_grad_() for x in (q, k, v, masking.gate) if x is not None]
    leaves += core.parameters()
    force_route(core, route, monkeypatch)
    monkeypatch.setattr(chunks, "CHUNK", 32)
    monkeypatch.setattr(chunks, "TILE", 8)
    mask = randn64(B, H, 70, E)
    gradients = torch.autograd.grad((core(q, k, v, masking) * mask).sum(), leaves)
    expected = torch.autograd.grad((recurrence(core, q, k, v, masking) * mask).sum(), leaves)
    assert all(gradient.abs().sum() > 0 for gradient in expected)
    assert_close(gradients, expected, 1e-8)


@every_map
def test_gradients_of_rows_that_see_nothing_are_finite(part: RFA, monkeypatch: pytest.MonkeyPatch) -> None:
    core = build_core(part).float()
    q, k, v, masking = inputs(part, 70)
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    keep = torch.zeros(B, 70, dtype=torch.bool)
    keep[1, 66:] = True
    masking = Masking(keep=keep, gate=None if masking.gate is None else masking.gate.float())
    for pairwise in (True, False):
        out = force_route(core, pairwise, monkeypatch)(*leaves, masking)
        assert not out[0].any()
        assert not out[1, :, :66].any()
        gradients = torch.autograd.grad(out.square().sum(), [*leaves, *core.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("pairwise", [True, False], ids=["pairs", "chunks"])
@every_gate
def test_laws_of_the_gate(part: RFA, pairwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant gate decays as c^(i-j); a shut one shows the value just read; an open one sums up evenly."""
    gated, plain = build_core(part), build_core(replace(part, gate=False))
    plain.load_state_dict(gated.state_dict())
    force_route(gated, pairwise, monkeypatch)
    q, k, v, _ = inputs(part, 67)
    gate = torch.full((B, H, 67), 1.3, dtype=torch.float64)
    steps = torch.arange(67.0, dtype=torch.float64)
    age = (steps[:, None] - steps).clamp_min(0)
    same = k[:, :, :1].expand_as(k)
    weights = weights_of(gated.attend(q, same, v, Masking(gate=gate)))
    decayed = (gate[0, 0, 0].sigmoid() ** age).tril()
    assert_close(weights, (decayed / decayed.sum(-1, keepdim=True)).expand_as(weights))
    assert_close(gated(q, k, v, Masking(gate=gate - 300)), v)
    assert_close(gated(q, k, v, Masking(gate=gate * 0 + 25)), plain(q, k, v), 1e-6)


@pytest.mark.parametrize("pairwise", [True, False], ids=["pairs", "chunks"])
def test_a_gate_remembers_precisely_after_it_has_forgotten_much(
    pairwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 a running sum of log gates loses, after a few shut gates, what the next ones add to it."""
    core = force_route(build_core(MAPS["gate"]), pairwise, monkeypatch)
    q, k, v, masking = inputs(MAPS["gate"], 64)
    gate = masking.gate.clone()  # pyright: ignore[reportOptionalMemberAccess]
    gate[..., :40:2] = -4000.0
    exact = core(q, k, v, Masking(gate=gate))
    in_float32 = core.float()(q.float(), k.float(), v.float(), Masking(gate=gate.float()))
    assert_close(in_float32.double(), exact, 1e-4)


@every_gate
def test_shut_and_open_gates_have_finite_gradients_in_float32(
    part: RFA, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = build_core(part).float()
    q, k, v, masking = (x.float() for x in (*inputs(part, 70)[:3], randn64(B, H, 70).sign() * 200))
    for pairwise in (True, False):
        leaves = [x.detach().requires_grad_() for x in (q, k, v, masking)]
        out = force_route(core, pairwise, monkeypatch)(*leaves[:3], Masking(gate=leaves[3]))
        assert out.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), leaves))


@pytest.mark.parametrize("name", ["lengths", "favor", "gate-lengths", "arccos-lengths"])
@pytest.mark.parametrize("pairwise", [True, False], ids=["pairs", "chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_huge_keys_are_finite_and_change_nothing_before_them(
    name: str, pairwise: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = MAPS[name]
    core = force_route(build_core(part).to(dtype), pairwise, monkeypatch)
    q, k, v, masking = inputs(part, 80)
    k = 50 * k / k.norm(dim=-1, keepdim=True)
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    masking = Masking(gate=None if masking.gate is None else masking.gate.to(dtype))
    out = core(*leaves, masking)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), leaves))
    # A longer key has more weight, except with Favor, where a shorter one has.
    huge = leaves[1].detach().clone()
    huge[:, :, 70] *= 0.01 if name == "favor" else 40
    later = core(leaves[0], huge, leaves[2], masking)
    assert later.isfinite().all()
    assert later[:, :, :70].equal(out[:, :, :70]), "the future leaks through the stabilisation"
    assert not later[:, :, 70:].equal(out[:, :, 70:])


def test_key_weights_of_padding_and_of_no_factors() -> None:
    assert compute_key_weights(None, None, None) is None
    key_weights = compute_key_weights(None, torch.zeros(1, 1, 3), torch.tensor([[True, False, True]]))
    assert key_weights is not None
    assert key_weights.log_weights[0, 0].tolist()[1] == float("-inf")
    assert key_weights.log_decay is not None
    assert key_weights.log_decay[0, 0, 1] == 0
    assert_close(key_weights.log_weights[0, 0, 0].exp(), torch.tensor(0.5), 1e-6)


def test_a_gate_must_come_with_its_logits_and_logits_with_a_gate() -> None:
    q, k, v, masking = inputs(MAPS["gate"])
    with pytest.raises(BadMask, match=r"RFA\(gate=True\) needs gate=, the gate logits .* pass them"):
        build_core(MAPS["gate"])(q, k, v)
    with pytest.raises(BadMask, match=r"without a gate: leave it out, or use RFA\(gate=True\)"):
        build_core(MAPS["rfa"])(q, k, v, masking)
