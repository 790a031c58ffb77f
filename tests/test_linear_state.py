"""The linear evaluator's states: split anywhere, kept over padding, detached and reordered."""

import pytest
import torch

from linear_cases import (
    MAPS,
    B,
    D,
    E,
    H,
    T,
    assert_close,
    build_core,
    every_map,
    inputs,
    randn64,
    slice_masking,
)
from qkv.kernel import RFA
from qkv.kernel.linear_state import LinearState
from qkv.kernel.masking import Masking
from qkv.state import Shared, detach, select_rows
from reference.loops import weights_of


@every_map
@pytest.mark.parametrize("at", [(0,), (3,), (1, 2, 6), (70,)], ids=str)
def test_a_state_can_be_split_anywhere(part: RFA, at: tuple[int, ...]) -> None:
    core = build_core(part)
    length = 100 if max(at) > T else T
    q, k, v, masking = inputs(part, length, masked=True)
    attended = core.attend(q, k, v, masking)
    state, begin = (
        core.start(k[:, :, :0], v[:, :, :0], slice_masking(masking, slice(0)), return_weights=True),
        0,
    )
    for end in (*at, length):
        now = slice(begin, end)
        step, state = core.extend(
            state, q[:, :, now], k[:, :, now], v[:, :, now], slice_masking(masking, now)
        )
        assert_close(step.out, attended.out[:, :, now])
        assert_close(weights_of(step), weights_of(attended)[:, :, now, :end])
        begin = end
    full = core.start(k, v, masking, return_weights=True)
    assert_close(core.attend_to_state(q, state), core.attend_to_state(q, full))
    assert_close(state[:3], full[:3])


@every_map
def test_padding_keeps_the_state_as_it_is(part: RFA) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part)
    state = core.start(k, v, masking)
    all_padded = masking._replace(keep=torch.zeros(B, T, dtype=torch.bool))
    _, after = core.extend(state, q, 30 * randn64(B, H, T, D), v, all_padded)
    assert_close(after, state)
    empty = core.start(k, v, all_padded)
    read, _ = core.attend_to_state(q, empty)
    assert not read.out.any()
    _, late = core.extend(empty, q, k, v, masking)
    assert_close(core.attend_to_state(q, late), core.attend_to_state(q, state))


@pytest.mark.parametrize("route", ["parallel", "step"])
@pytest.mark.parametrize("name", ["rfa", "lengths", "gate", "favor"])
def test_sums_stay_exact_over_thousands_of_positions_under_autocast(name: str, route: str) -> None:
    """A running count in bfloat16 stops growing at 256: the average of a constant would drift from it."""
    part, length = MAPS[name], 5000
    core = build_core(part).float()
    k = torch.randn(1, 1, 1, D, dtype=torch.bfloat16).expand(1, H, length, D)
    v = torch.full((1, H, length, E), 3.0, dtype=torch.bfloat16)
    v[:, :, 4000:, 1] = -5.0
    # The gate is nearly open: all 5000 positions count, and 1 - g is far below what bfloat16 tells from 0.
    logits = torch.full((1, H, length), 16.0, dtype=torch.bfloat16)
    masking = Masking(gate=logits) if name == "gate" else Masking()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if route == "parallel":
            out = core(k, k, v, masking)
        else:
            early, late = slice(4999), slice(4999, None)
            state = core.start(k[:, :, early], v[:, :, early], slice_masking(masking, early))
            attended, state = core.extend(
                state, k[:, :, late], k[:, :, late], v[:, :, late], slice_masking(masking, late)
            )
            out = attended.out
            assert state.feature_sums.dtype == state.plain_sums.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    assert_close(
        out[:, :, -1].float(), torch.tensor([3.0, (4000 * 3 - 1000 * 5) / 5000]).expand(1, H, E), 1e-2
    )
    assert_close(out[..., 0].float(), torch.full_like(out[..., 0], 3.0).float(), 1e-2)


@pytest.mark.parametrize("name", ["lengths", "favor", "gate"])
def test_a_detached_state_starts_a_segment_of_its_own(name: str) -> None:
    part = MAPS[name]
    core = build_core(part)
    q, k, v, masking = inputs(part, 9)
    leaf = k.requires_grad_()
    early, late = slice(4), slice(4, None)
    state = core.start(leaf[:, :, early], v[:, :, early], slice_masking(masking, early), return_weights=True)
    cutoff = detach(state)
    assert isinstance(cutoff, LinearState)
    assert_close(cutoff, state, 0)
    history = cutoff.history
    assert history is not None
    tensors = [cutoff.feature_sums, cutoff.plain_sums, cutoff.projections.value, history.features]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert history.key_weights is None or not history.key_weights.log_weights.requires_grad
    attended, _ = core.extend(
        cutoff, q[:, :, late], leaf[:, :, late], v[:, :, late], slice_masking(masking, late)
    )
    assert_close(attended.out, core(q, leaf, v, masking)[:, :, late])
    gradient, *learned = torch.autograd.grad(attended.out.square().sum(), [leaf, *core.parameters()])
    assert not gradient[:, :, early].any()
    assert gradient[:, :, late].any()
    assert all(g.any() for g in learned), "the bandwidth learns in every segment"


def test_detach_reaches_into_what_is_shared_and_leaves_numbers_alone() -> None:
    leaf = randn64(2).requires_grad_()
    detached = detach((Shared(leaf * 2), {"a": leaf * 3}, 7, None))
    assert not detached[0].value.requires_grad
    assert not detached[1]["a"].requires_grad
    assert detached[2:] == (7, None)
    with pytest.raises(TypeError, match="not list"):
        detach((leaf, [leaf]))


def test_rows_of_a_state_with_key_weights_can_be_reordered() -> None:
    core = build_core(MAPS["gate-lengths"])
    q, k, v, masking = inputs(MAPS["gate-lengths"], masked=True)
    rows = torch.tensor([1, 0, 1])
    state = select_rows(core.start(k, v, masking, return_weights=True), rows)
    assert masking.keep is not None
    assert masking.gate is not None
    reordered = Masking(masking.keep[rows], gate=masking.gate[rows])
    again = core.start(k[rows], v[rows], reordered, return_weights=True)
    assert_close(core.attend_to_state(q[rows], state)[0], core.attend_to_state(q[rows], again)[0])
