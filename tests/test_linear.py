"""The linear evaluator: chunks, states, masses and gates, whatever the feature map."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import BadMask
from qkv.kernel import RFA, Elu, Favor, chunks
from qkv.kernel.given import Given
from qkv.kernel.linear import Linear
from qkv.kernel.linear_state import LinearState
from qkv.kernel.masses import weigh
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims
from qkv.state import Shared, detach, select_rows
from reference.loops import weights_of

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
) -> tuple[Tensor, Tensor, Tensor, Given]:
    q, k, v = doubles(B, H, length, D), doubles(B, H, length, D), doubles(B, H, length, E)
    gate = 2 * doubles(B, H, length) if getattr(part, "gate", False) else None
    return q, k, v, Given(keep=torch.rand(B, length) < 0.6 if masked else None, gate=gate)


def cut(given: Given, part: slice) -> Given:
    keep = None if given.keep is None else given.keep[:, part]
    return Given(keep=keep, gate=None if given.gate is None else given.gate[:, :, part])


def recurrence(core: Linear, q: Tensor, k: Tensor, v: Tensor, given: Given) -> Tensor:
    """S_t = g_t S_{t-1} + (1 - g_t) m_t φ(k_t) ⊗ [v_t, 1], position by position."""
    projections = core.features.draw()
    phi_q, (phi_k, log_mass) = core.features.queries(q, projections), core.features.keys(k, projections)
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
    monkeypatch.setattr(core, "_short", lambda *sizes: short)
    return core


@every_map
@pytest.mark.parametrize(
    ("length", "masked"), [(1, False), (64, True), (65, False), (130, True), (325, False)]
)
def test_chunks_and_pairs_equal_the_recurrence(
    part: RFA, length: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, length, masked)
    expected = recurrence(core, q, k, v, given)
    for short in (True, False):
        close(routed(core, short, monkeypatch)(q, k, v, given), expected, 1e-9)


@every_map
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize(("chunk", "tile"), [(1, 1), (5, 5), (40, 40), (12, 4), (10, 2)])
def test_the_chunk_changes_nothing(
    part: RFA, causal: bool, chunk: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, 13, masked=True)

    def results() -> tuple[object, ...]:
        start = core.start(k, v, given)
        nothing = core.start(k[:, :, :0], v[:, :, :0], cut(given, slice(0)))
        attended, after = core.extend(nothing, q, k, v, given)
        # The scale of a row is the largest mass it has met, whatever the chunk.
        return start[:3], core.read(q, start)[0].out, attended.out, after[:3]

    expected = results()
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    monkeypatch.setattr(chunks, "TILE", tile)
    close(results(), expected)


@every_map
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
def test_features_are_never_there_for_the_whole_sequence(
    part: RFA, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while they are mapped, nor among what the backward pass keeps: O(N (D + E)) for N positions."""
    monkeypatch.setattr(chunks, "CHUNK", 64)
    core = routed(core_of(part, causal or "gate" in str(part)), False, monkeypatch)
    longest, kept = [], {}
    mapped = core.features.queries
    monkeypatch.setattr(core.features, "queries", lambda x, w: longest.append(x.shape[2]) or mapped(x, w))

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    sizes = []
    for length in (640, 1280):
        q, k, v, given = inputs(part, length)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            core(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), given)
        sizes.append(sum(kept.values()))
    states = 8 * 640 // 64 * B * H * (core.features.width + 3) * (E + 3)
    assert max(longest) <= 64
    assert sizes[1] - sizes[0] <= 2 * 8 * 640 * B * H * (2 * D + 2 * E) + 2 * states


@every_map
@pytest.mark.parametrize("length", [9, 70])
def test_keys_before_the_first_query_and_queries_before_the_first_key(
    part: RFA, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, length, masked=True)
    whole = core(q, k, v, given)
    for short in (True, False):
        routed(core, short, monkeypatch)
        close(core(q[:, :, 3:], k, v, given), whole[:, :, 3:])
        later = cut(given, slice(3, None))
        late = core(q, k[:, :, 3:], v[:, :, 3:], later)
        close(late[:, :, 3:], core(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], later))
        close(late[:, :, :3], torch.zeros_like(late[:, :, :3]))


@every_map
@pytest.mark.parametrize("at", [(0,), (3,), (1, 2, 6), (70,)], ids=str)
def test_a_state_can_be_split_anywhere(part: RFA, at: tuple[int, ...]) -> None:
    core = core_of(part)
    length = 100 if max(at) > T else T
    q, k, v, given = inputs(part, length, masked=True)
    shown = core.attend(q, k, v, given)
    state, begin = core.start(k[:, :, :0], v[:, :, :0], cut(given, slice(0)), remember=True), 0
    for end in (*at, length):
        now = slice(begin, end)
        step, state = core.extend(state, q[:, :, now], k[:, :, now], v[:, :, now], cut(given, now))
        close(step.out, shown.out[:, :, now])
        close(weights_of(step), weights_of(shown)[:, :, now, :end])
        begin = end
    whole = core.start(k, v, given, remember=True)
    close(core.read(q, state), core.read(q, whole))
    close(state[:3], whole[:3])


@every_map
def test_weights_make_the_output_and_constants_survive(part: RFA) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, masked=True)
    shown = core.attend(q, k, v, given)
    close(weights_of(shown) @ v, shown.out)
    close(core(q, k, v, given), shown.out)
    constant = core(q, k, torch.ones_like(v), given)
    seen = given.keep.cumsum(1)[:, None, :, None] > 0  # pyright: ignore[reportOptionalMemberAccess]
    close(constant, seen.double().expand_as(constant))
    state = core.start(k, v, given, remember=True)
    attended, same = core.read(q, state)
    assert same is state
    close(weights_of(attended) @ v, attended.out)


@every_map
def test_padding_keeps_the_state_as_it_is(part: RFA) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part)
    state = core.start(k, v, given)
    nothing = given._replace(keep=torch.zeros(B, T, dtype=torch.bool))
    _, after = core.extend(state, q, 30 * doubles(B, H, T, D), v, nothing)
    close(after, state)
    empty = core.start(k, v, nothing)
    read, _ = core.read(q, empty)
    assert not read.out.any()
    _, late = core.extend(empty, q, k, v, given)
    close(core.read(q, late), core.read(q, state))


@every_map
@pytest.mark.parametrize("route", [True, False], ids=["pairs", "chunks"])
def test_gradients_are_those_of_the_recurrence(
    part: RFA, route: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, 70, masked=True)
    leaves = [x.requires_grad_() for x in (q, k, v, given.gate) if x is not None]
    leaves += core.parameters()
    routed(core, route, monkeypatch)
    monkeypatch.setattr(chunks, "CHUNK", 32)
    monkeypatch.setattr(chunks, "TILE", 8)
    mask = doubles(B, H, 70, E)
    found = torch.autograd.grad((core(q, k, v, given) * mask).sum(), leaves)
    expected = torch.autograd.grad((recurrence(core, q, k, v, given) * mask).sum(), leaves)
    assert all(gradient.abs().sum() > 0 for gradient in expected)
    close(found, expected, 1e-8)


@every_map
def test_gradients_of_rows_that_see_nothing_are_finite(part: RFA, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(part).float()
    q, k, v, given = inputs(part, 70)
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    keep = torch.zeros(B, 70, dtype=torch.bool)
    keep[1, 66:] = True
    given = Given(keep=keep, gate=None if given.gate is None else given.gate.float())
    for short in (True, False):
        out = routed(core, short, monkeypatch)(*leaves, given)
        assert not out[0].any()
        assert not out[1, :, :66].any()
        gradients = torch.autograd.grad(out.square().sum(), [*leaves, *core.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


class Quadratic(nn.Module):
    """φ(x) = [1, x, vec(x xᵀ) / sqrt 2], so that φ(x)·φ(y) = 1 + x·y + (x·y)² / 2 without any chance."""

    width = 1 + D + D * D

    def draw(self) -> None:
        """Nothing is random."""

    def queries(self, x: Float[Tensor, "B H N D"], projections: None) -> Tensor:
        return torch.cat(
            [torch.ones_like(x[..., :1]), x, (x[..., None] * x[..., None, :]).flatten(-2) / 2**0.5], -1
        )

    def keys(self, x: Float[Tensor, "B H N D"], projections: None) -> tuple[Tensor, None]:
        return self.queries(x, projections), None


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_an_exact_map_is_an_oracle_for_every_route(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Linear(Dims(H, D, D, E), Quadratic(), 1e-20, causal)
    q, k, v, given = inputs(MAPS["rfa"], 90, masked=True)
    product = q @ k.mT
    weights = (1 + product + product.square() / 2) * given.keep[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    weights = weights.tril() if causal else weights
    expected = (weights @ v) / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    for short in (True, False):
        close(routed(core, short, monkeypatch)(q, k, v, given), expected, 1e-9)
    close(core.attend(q, k, v, given).out, expected, 1e-9)
    if not causal:
        close(core.read(q, core.start(k, v, given))[0].out, expected, 1e-9)
        shuffled = torch.randperm(90)
        moved = Given(keep=given.keep[:, shuffled])  # pyright: ignore[reportOptionalSubscript]
        close(core(q, k[:, :, shuffled], v[:, :, shuffled], moved), expected, 1e-9)


@every_map
def test_is_linear_in_the_values(part: RFA) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part)
    other = doubles(B, H, T, E)
    close(core(q, k, 2 * v - 3 * other, given), 2 * core(q, k, v, given) - 3 * core(q, k, other, given))


@every_map
def test_the_first_position_is_its_value(part: RFA) -> None:
    core = core_of(part)
    q, k, v, given = inputs(part, 1)
    close(core(q, k, v, given), v)


@pytest.mark.parametrize("short", [True, False], ids=["pairs", "chunks"])
@every_gate
def test_laws_of_the_gate(part: RFA, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant gate decays as c^(i-j); a shut one shows the value just read; an open one sums up evenly."""
    gated, plain = core_of(part), core_of(replace(part, gate=False))
    plain.load_state_dict(gated.state_dict())
    routed(gated, short, monkeypatch)
    q, k, v, _ = inputs(part, 67)
    gate = torch.full((B, H, 67), 1.3, dtype=torch.float64)
    steps = torch.arange(67.0, dtype=torch.float64)
    age = (steps[:, None] - steps).clamp_min(0)
    same = k[:, :, :1].expand_as(k)
    weights = weights_of(gated.attend(q, same, v, Given(gate=gate)))
    decayed = (gate[0, 0, 0].sigmoid() ** age).tril()
    close(weights, (decayed / decayed.sum(-1, keepdim=True)).expand_as(weights))
    close(gated(q, k, v, Given(gate=gate - 300)), v)
    close(gated(q, k, v, Given(gate=gate * 0 + 25)), plain(q, k, v), 1e-6)


@pytest.mark.parametrize("short", [True, False], ids=["pairs", "chunks"])
def test_a_gate_remembers_precisely_after_it_has_forgotten_much(
    short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 a running sum of log gates loses, after a few shut gates, what the next ones add to it."""
    core = routed(core_of(MAPS["gate"]), short, monkeypatch)
    q, k, v, given = inputs(MAPS["gate"], 64)
    gate = given.gate.clone()  # pyright: ignore[reportOptionalMemberAccess]
    gate[..., :40:2] = -4000.0
    exact = core(q, k, v, Given(gate=gate))
    narrow = core.float()(q.float(), k.float(), v.float(), Given(gate=gate.float()))
    close(narrow.double(), exact, 1e-4)


@every_gate
def test_shut_and_open_gates_have_finite_gradients_in_float32(
    part: RFA, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(part).float()
    q, k, v, given = (x.float() for x in (*inputs(part, 70)[:3], doubles(B, H, 70).sign() * 200))
    for short in (True, False):
        leaves = [x.detach().requires_grad_() for x in (q, k, v, given)]
        out = routed(core, short, monkeypatch)(*leaves[:3], Given(gate=leaves[3]))
        assert out.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), leaves))


@pytest.mark.parametrize("route", ["parallel", "step"])
@pytest.mark.parametrize("name", ["rfa", "lengths", "gate", "favor"])
def test_sums_stay_exact_over_thousands_of_positions_under_autocast(name: str, route: str) -> None:
    """A running count in bfloat16 stops growing at 256: the average of a constant would drift from it."""
    part, length = MAPS[name], 5000
    core = core_of(part).float()
    k = torch.randn(1, 1, 1, D, dtype=torch.bfloat16).expand(1, H, length, D)
    v = torch.full((1, H, length, E), 3.0, dtype=torch.bfloat16)
    v[:, :, 4000:, 1] = -5.0
    # The gate is nearly open: all 5000 positions count, and 1 - g is far below what bfloat16 tells from 0.
    logits = torch.full((1, H, length), 16.0, dtype=torch.bfloat16)
    given = Given(gate=logits) if name == "gate" else Given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if route == "parallel":
            out = core(k, k, v, given)
        else:
            early, late = slice(4999), slice(4999, None)
            state = core.start(k[:, :, early], v[:, :, early], cut(given, early))
            attended, state = core.extend(
                state, k[:, :, late], k[:, :, late], v[:, :, late], cut(given, late)
            )
            out = attended.out
            assert state.sums.dtype == state.plain.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    close(out[:, :, -1].float(), torch.tensor([3.0, (4000 * 3 - 1000 * 5) / 5000]).expand(1, H, E), 1e-2)
    close(out[..., 0].float(), torch.full_like(out[..., 0], 3.0).float(), 1e-2)


@pytest.mark.parametrize("name", ["lengths", "favor", "gate-lengths", "arccos-lengths"])
@pytest.mark.parametrize("short", [True, False], ids=["pairs", "chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_huge_keys_are_finite_and_change_nothing_before_them(
    name: str, short: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = MAPS[name]
    core = routed(core_of(part).to(dtype), short, monkeypatch)
    q, k, v, given = inputs(part, 80)
    k = 50 * k / k.norm(dim=-1, keepdim=True)
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    given = Given(gate=None if given.gate is None else given.gate.to(dtype))
    out = core(*leaves, given)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), leaves))
    # A longer key has more mass, but for Favor: there a short one has.
    huge = leaves[1].detach().clone()
    huge[:, :, 70] *= 0.01 if name == "favor" else 40
    later = core(leaves[0], huge, leaves[2], given)
    assert later.isfinite().all()
    assert later[:, :, :70].equal(out[:, :, :70]), "the future leaks through the stabilisation"
    assert not later[:, :, 70:].equal(out[:, :, 70:])


@pytest.mark.parametrize("name", ["lengths", "favor", "gate"])
def test_a_detached_state_starts_a_segment_of_its_own(name: str) -> None:
    part = MAPS[name]
    core = core_of(part)
    q, k, v, given = inputs(part, 9)
    leaf = k.requires_grad_()
    early, late = slice(4), slice(4, None)
    state = core.start(leaf[:, :, early], v[:, :, early], cut(given, early), remember=True)
    cutoff = detach(state)
    assert isinstance(cutoff, LinearState)
    close(cutoff, state, 0)
    seen = cutoff.seen
    assert seen is not None
    tensors = [cutoff.sums, cutoff.plain, cutoff.projections.value, seen.phi]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert seen.masses is None or not seen.masses.written.requires_grad
    attended, _ = core.extend(cutoff, q[:, :, late], leaf[:, :, late], v[:, :, late], cut(given, late))
    close(attended.out, core(q, leaf, v, given)[:, :, late])
    gradient, *learned = torch.autograd.grad(attended.out.square().sum(), [leaf, *core.parameters()])
    assert not gradient[:, :, early].any()
    assert gradient[:, :, late].any()
    assert all(g.any() for g in learned), "the bandwidth learns in every segment"


def test_detach_reaches_into_what_is_shared_and_leaves_numbers_alone() -> None:
    leaf = doubles(2).requires_grad_()
    found = detach((Shared(leaf * 2), {"a": leaf * 3}, 7, None))
    assert not found[0].value.requires_grad
    assert not found[1]["a"].requires_grad
    assert found[2:] == (7, None)
    with pytest.raises(TypeError, match="not list"):
        detach((leaf, [leaf]))


def test_rows_of_a_state_with_masses_can_be_reordered() -> None:
    core = core_of(MAPS["gate-lengths"])
    q, k, v, given = inputs(MAPS["gate-lengths"], masked=True)
    rows = torch.tensor([1, 0, 1])
    state = select_rows(core.start(k, v, given, remember=True), rows)
    again = core.start(k[rows], v[rows], Given(given.keep[rows], gate=given.gate[rows]), remember=True)  # pyright: ignore[reportOptionalSubscript]
    close(core.read(q[rows], state)[0], core.read(q[rows], again)[0])


def test_masses_of_padding_and_of_nothing() -> None:
    assert weigh(None, None, None) is None
    masses = weigh(None, torch.zeros(1, 1, 3), torch.tensor([[True, False, True]]))
    assert masses is not None
    assert masses.written[0, 0].tolist()[1] == float("-inf")
    assert masses.decay is not None
    assert masses.decay[0, 0, 1] == 0
    close(masses.written[0, 0, 0].exp(), torch.tensor(0.5), 1e-6)


def test_a_gate_must_come_with_its_logits_and_logits_with_a_gate() -> None:
    q, k, v, given = inputs(MAPS["gate"])
    with pytest.raises(BadMask, match=r"RFA\(gate=True\) needs the gate logits of every key, gate="):
        core_of(MAPS["gate"])(q, k, v)
    with pytest.raises(BadMask, match=r"without a gate: use RFA\(gate=True\)"):
        core_of(MAPS["rfa"])(q, k, v, given)


def test_says_which_route_runs() -> None:
    core = core_of(Elu())
    assert "pairwise: at 3×3" in core.explain(3, 3)
    assert f"in chunks of {chunks.CHUNK}" in core.explain(900, 900)
    assert f"in chunks of {chunks.CHUNK}" in core_of(Elu(), causal=False).explain(900, 900)
