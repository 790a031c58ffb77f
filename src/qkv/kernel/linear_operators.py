"""Linear attention with torch operators, chunk by chunk: the route that serves every device, dtype and map.

Each function maps queries and keys inside a chunk, so that features exist for one chunk at a time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv import masks
from qkv.errors import BadMask
from qkv.kernel.causal_average import average_chunk_causally
from qkv.kernel.chunks import scan_chunks
from qkv.kernel.feature_map import FeatureMap
from qkv.kernel.key_weights import (
    KeyWeights,
    compute_causal_log_weights_at_queries,
    compute_detached_row_max,
    compute_key_weights,
    compute_log_weights_after_last_key,
    subtract_max_and_exp,
)
from qkv.kernel.masking import (
    Masking,
    promote_to_float32,
    repeat_heads,
    slice_keep_and_gate,
    slice_keep_and_replace_gate,
)
from qkv.kernel.sums import (
    Features,
    MappedKeys,
    OutputAndSums,
    Sums,
    average_from_sums,
    compute_implied_weights,
    create_empty_sums,
    decay_carry_and_add_keys,
)
from qkv.shapes import Key, Query, Value, Weights


def check_no_pair_masks_and_gate_as_expected(masking: Masking, is_gated: bool) -> None:
    """Check that a feature map supports the masking of a call.

    Args:
        masking: The masks and the gate of the call.
        is_gated: Whether the kernel has a gate.

    Raises:
        BadMask: `allow` or `bias` is set, or the gate is missing or not expected.
    """
    for name in ("allow", "bias"):
        if getattr(masking, name) is not None:
            raise BadMask(
                f"{name}= was passed to a feature map, which sums over all keys or a prefix and cannot treat "
                "single pairs differently: use keep= and causal=True, or kernel=Softmax()"
            )
    if is_gated and masking.gate is None:
        raise BadMask(
            "RFA(gate=True) needs gate=, the gate logits [batch, heads, keys], and got none: pass them, or "
            "use qkv.Attention, which computes them"
        )
    if masking.gate is not None and not is_gated:
        raise BadMask("gate= was passed to a kernel without a gate: leave it out, or use RFA(gate=True)")


def repeat_heads_and_map_keys(
    feature_map: FeatureMap, heads: int, k: Key, v: Value, masking: Masking, projections: Any
) -> MappedKeys:
    """φ(k), [v, 1] and the key weights, with shared key heads repeated and padding set to 0.

    Args:
        feature_map: Maps the keys.
        heads: H, the number of query heads.
        k: Keys [B,Hk,S,D].
        v: Values [B,Hk,S,E].
        masking: `keep` and `gate` of these keys.
        projections: What the feature map chose for the sequence.

    Returns:
        Keys that are ready to be summed.
    """
    features, log_factor = feature_map.map_keys(promote_to_float32(repeat_heads(k, heads)), projections)
    values = F.pad(promote_to_float32(repeat_heads(v, heads)), (0, 1), value=1.0)
    if masking.keep is not None:
        features, values = (x * masking.keep[:, None, :, None] for x in (features, values))
    gate = None if masking.gate is None else promote_to_float32(masking.gate)
    return MappedKeys(features, values, compute_key_weights(log_factor, gate, masking.keep))


def sum_keys_in_chunks(
    feature_map: FeatureMap, heads: int, k: Key, v: Value, masking: Masking, projections: Any
) -> Sums:
    """The sums over all keys of a sequence.

    Args:
        feature_map: Maps the keys.
        heads: H, the number of query heads.
        k: Keys [B,Hk,S,D].
        v: Values [B,Hk,S,E].
        masking: `keep` and `gate` of these keys.
        projections: What the feature map chose for the sequence.

    Returns:
        The sums after the last key.
    """

    def step(carry: Sums, positions: slice, k: Key, v: Value, gate: Tensor | None) -> tuple[None, Sums]:
        chunk = slice_keep_and_replace_gate(masking, positions, gate)
        return None, decay_carry_and_add_keys(
            repeat_heads_and_map_keys(feature_map, heads, k, v, chunk, projections), carry
        )

    no_keys = slice_keep_and_gate(masking, slice(0))
    carry = create_empty_sums(
        repeat_heads_and_map_keys(feature_map, heads, k[:, :, :0], v[:, :, :0], no_keys, projections)
    )
    return scan_chunks(step, carry, k, v, masking.gate).state


def average_causally_in_chunks(
    feature_map: FeatureMap,
    heads: int,
    floor: float,
    tensors: tuple[Query, Key, Value],
    masking: Masking,
    projections: Any,
    carry: Sums,
) -> OutputAndSums:
    """Causal linear attention of a sequence that follows the keys in `carry`.

    Args:
        feature_map: Maps queries and keys.
        heads: H, the number of query heads.
        floor: See `sums`.
        tensors: q [B,H,T,D], k and v [B,Hk,T,*] of the same T positions.
        masking: Of these keys.
        projections: What the feature map chose for the sequence.
        carry: The sums over all earlier keys.

    Returns:
        out [B,H,T,E] in the dtype of v, and the sums after the last key.
    """

    def step(
        carry: Sums, positions: slice, q: Query, k: Key, v: Value, gate: Tensor | None
    ) -> tuple[Tensor, Sums]:
        keys = repeat_heads_and_map_keys(
            feature_map, heads, k, v, slice_keep_and_replace_gate(masking, positions, gate), projections
        )
        query_features = feature_map.map_queries(promote_to_float32(q), projections)
        out, after = average_chunk_causally(query_features, keys, carry, floor)
        return out.to(v.dtype), after

    out, after = scan_chunks(step, carry, *tensors, masking.gate)
    q, _, v = tensors
    return OutputAndSums(_allocate_empty_output_if_none(out, q, v.shape[3], v.dtype), after)


def map_queries_and_average_over_sums(
    feature_map: FeatureMap, floor: float, q: Query, projections: Any, sums: Sums
) -> Tensor:
    """out [B,H,T,E] in the dtype of q, where every query averages over all keys in the sums.

    Args:
        feature_map: Maps the queries.
        floor: See `sums`.
        q: Queries [B,H,T,D].
        projections: What the feature map chose for the sequence.
        sums: The sums over the keys.

    Returns:
        out [B,H,T,E].
    """

    def step(sums: Sums, _: slice, q: Query) -> tuple[Tensor, Sums]:
        query_features = feature_map.map_queries(promote_to_float32(q), projections)
        query_sums = query_features @ sums.feature_sums  # [B,H,T,F] @ [B,H,F,E+1] -> [B,H,T,E+1]
        return average_from_sums(query_sums, sums.plain_sums, floor).to(q.dtype), sums

    out = scan_chunks(step, sums, q).out
    return _allocate_empty_output_if_none(out, q, sums.feature_sums.shape[3] - 1, q.dtype)


def compute_attention_weights(
    query_features: Features,
    key_features: Tensor,
    keep: Tensor | None,
    key_weights: KeyWeights | None,
    causal: bool,
    floor: float,
) -> Weights:
    """The attention weights [B,H,T,S] that a feature map implies.

    Args:
        query_features: φ(q) [B,H,T,F].
        key_features: φ(k) [B,H,S,F].
        keep: [B,1 or H,1,S], True for real keys; ignored where key_weights are passed, which include it.
        key_weights: None where every real key has the weight 1.
        causal: Whether query t sees keys up to t + S - T only.
        floor: See `sums`.

    Returns:
        Weights [B,H,T,S].
    """
    queries, keys = query_features.shape[2], key_features.shape[2]
    if key_weights is None:
        triangle = masks.causal(queries, keys, query_features.device)[None, None] if causal else None
        m = masks.intersect(triangle, keep)
    else:
        logs = (
            compute_causal_log_weights_at_queries(key_weights, queries)
            if causal
            else compute_log_weights_after_last_key(key_weights)
        )
        m = subtract_max_and_exp(logs, compute_detached_row_max(logs))
    return compute_implied_weights(query_features, key_features, m, floor)


def _allocate_empty_output_if_none(out: Tensor | None, q: Query, width: int, dtype: torch.dtype) -> Tensor:
    """The output of no chunks, [B,H,0,width], where there is none."""
    return q.new_empty(*q.shape[:3], width, dtype=dtype) if out is None else out
