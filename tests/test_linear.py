"""The linear evaluator: every route equals the recurrence, whatever the feature map."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    force_route,
    inputs,
    randn64,
    recurrence,
    slice_masking,
)
from qkv.kernel import RFA, Elu, chunks
from qkv.kernel.linear import Linear
from qkv.kernel.masking import Masking
from qkv.shapes import Dims
from reference.loops import weights_of


@every_map
@pytest.mark.parametrize(
    ("length", "masked"), [(1, False), (64, True), (65, False), (130, True), (325, False)]
)
def test_chunks_and_pairs_equal_the_recurrence(
    part: RFA, length: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, length, masked)
    expected = recurrence(core, q, k, v, masking)
    for pairwise in (True, False):
        assert_close(force_route(core, pairwise, monkeypatch)(q, k, v, masking), expected, 1e-9)


@every_map
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize(("chunk", "tile"), [(1, 1), (5, 5), (40, 40), (12, 4), (10, 2)])
def test_the_chunk_changes_nothing(
    part: RFA, causal: bool, chunk: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, 13, masked=True)

    def results() -> tuple[object, ...]:
        start = core.start(k, v, masking)
        empty = core.start(k[:, :, :0], v[:, :, :0], slice_masking(masking, slice(0)))
        attended, after = core.extend(empty, q, k, v, masking)
        # The scale of a row is the largest key weight that it has read, whatever the chunk.
        return start[:3], core.attend_to_state(q, start)[0].out, attended.out, after[:3]

    expected = results()
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    monkeypatch.setattr(chunks, "TILE", tile)
    assert_close(results(), expected)


@every_map
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
def test_features_are_never_there_for_the_whole_sequence(
    part: RFA, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while they are mapped, nor among what the backward pass keeps: O(N (D + E)) for N positions."""
    monkeypatch.setattr(chunks, "CHUNK", 64)
    core = force_route(build_core(part, causal or "gate" in str(part)), False, monkeypatch)
    longest, saved_bytes = [], {}
    mapped = core.features.map_queries
    monkeypatch.setattr(core.features, "map_queries", lambda x, w: longest.append(x.shape[2]) or mapped(x, w))

    def pack(x: Tensor) -> Tensor:
        saved_bytes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    sizes = []
    for length in (640, 1280):
        q, k, v, masking = inputs(part, length)
        saved_bytes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            core(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), masking)
        sizes.append(sum(saved_bytes.values()))
    states = 8 * 640 // 64 * B * H * (core.features.width + 3) * (E + 3)
    assert max(longest) <= 64
    assert sizes[1] - sizes[0] <= 2 * 8 * 640 * B * H * (2 * D + 2 * E) + 2 * states


@every_map
@pytest.mark.parametrize("length", [9, 70])
def test_keys_before_the_first_query_and_queries_before_the_first_key(
    part: RFA, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, length, masked=True)
    full = core(q, k, v, masking)
    for pairwise in (True, False):
        force_route(core, pairwise, monkeypatch)
        assert_close(core(q[:, :, 3:], k, v, masking), full[:, :, 3:])
        later_keys = slice_masking(masking, slice(3, None))
        out_late = core(q, k[:, :, 3:], v[:, :, 3:], later_keys)
        assert_close(out_late[:, :, 3:], core(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], later_keys))
        assert_close(out_late[:, :, :3], torch.zeros_like(out_late[:, :, :3]))


@every_map
def test_weights_make_the_output_and_constants_survive(part: RFA) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, masked=True)
    attended = core.attend(q, k, v, masking)
    assert_close(weights_of(attended) @ v, attended.out)
    assert_close(core(q, k, v, masking), attended.out)
    constant = core(q, k, torch.ones_like(v), masking)
    has_key = masking.keep.cumsum(1)[:, None, :, None] > 0  # pyright: ignore[reportOptionalMemberAccess]
    assert_close(constant, has_key.double().expand_as(constant))
    state = core.start(k, v, masking, return_weights=True)
    attended, same = core.attend_to_state(q, state)
    assert same is state
    assert_close(weights_of(attended) @ v, attended.out)


class Quadratic(nn.Module):
    """φ(x) = [1, x, vec(x xᵀ) / sqrt 2], so that φ(x)·φ(y) = 1 + x·y + (x·y)² / 2 without any chance."""

    width = 1 + D + D * D

    def choose_projections(self) -> None:
        """Nothing is random."""

    def map_queries(self, x: Float[Tensor, "B H N D"], projections: None) -> Tensor:
        return torch.cat(
            [torch.ones_like(x[..., :1]), x, (x[..., None] * x[..., None, :]).flatten(-2) / 2**0.5], -1
        )

    def map_keys(self, x: Float[Tensor, "B H N D"], projections: None) -> tuple[Tensor, None]:
        return self.map_queries(x, projections), None


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_an_exact_map_is_an_oracle_for_every_route(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Linear(Dims(H, D, D, E), Quadratic(), 1e-20, causal)
    q, k, v, masking = inputs(MAPS["rfa"], 90, masked=True)
    product = q @ k.mT
    weights = (1 + product + product.square() / 2) * masking.keep[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    weights = weights.tril() if causal else weights
    expected = (weights @ v) / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    for pairwise in (True, False):
        assert_close(force_route(core, pairwise, monkeypatch)(q, k, v, masking), expected, 1e-9)
    assert_close(core.attend(q, k, v, masking).out, expected, 1e-9)
    if not causal:
        assert_close(core.attend_to_state(q, core.start(k, v, masking))[0].out, expected, 1e-9)
        shuffled = torch.randperm(90)
        moved = Masking(keep=masking.keep[:, shuffled])  # pyright: ignore[reportOptionalSubscript]
        assert_close(core(q, k[:, :, shuffled], v[:, :, shuffled], moved), expected, 1e-9)


@every_map
def test_is_linear_in_the_values(part: RFA) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part)
    other = randn64(B, H, T, E)
    assert_close(
        core(q, k, 2 * v - 3 * other, masking), 2 * core(q, k, v, masking) - 3 * core(q, k, other, masking)
    )


@every_map
def test_the_first_position_is_its_value(part: RFA) -> None:
    core = build_core(part)
    q, k, v, masking = inputs(part, 1)
    assert_close(core(q, k, v, masking), v)


def test_says_which_route_runs() -> None:
    core = build_core(Elu())
    assert "pairwise: at 3×3" in core.explain(3, 3)
    assert f"in chunks of {chunks.CHUNK}" in core.explain(900, 900)
    assert f"in chunks of {chunks.CHUNK}" in build_core(Elu(), causal=False).explain(900, 900)
