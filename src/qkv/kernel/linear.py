"""The linear evaluator: a feature map replaces the score, and sums over keys replace the attention weights.

    w_ts = m_ts φ(q_t)·φ(k_s);   out_t = Σ_s w_ts v_s / Σ_s w_ts                    O(T + S) time and memory

with the key weights m of `key_weights` (1 for most maps) and the sums of `sums`, which also says what happens
where the denominator is too small.  A feature map is any module with the members of `feature_map.FeatureMap`.

`Linear` chooses one of three routes, which give the same result:

    backend     one call of `native` (C++, CPU) or `triton` (CUDA), for maps that these know
    chunks      torch operators, chunk by chunk (`linear_operators`; drawn in `causal_average`)
    pairwise    forms the T×S weights, where they are so few that this is cheaper
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv import masks
from qkv.kernel.backends import describe_backends, select_faster_backend_or_none
from qkv.kernel.chunks import CHUNK
from qkv.kernel.core import Core
from qkv.kernel.feature_map import RESCALING_MAPS, BackendMap
from qkv.kernel.key_weights import compute_key_weights
from qkv.kernel.linear_operators import (
    average_causally_in_chunks,
    check_no_pair_masks_and_gate_as_expected,
    compute_attention_weights,
    map_queries_and_average_over_sums,
    repeat_heads_and_map_keys,
    sum_keys_in_chunks,
)
from qkv.kernel.linear_state import (
    KeyHistory,
    LinearState,
    append_keys_to_history,
    cast_state_sums_to_float32_or_64,
    check_state_sizes,
)
from qkv.kernel.masking import Masking, promote_to_float32, repeat_heads, slice_keep_and_gate
from qkv.kernel.native import layer_step
from qkv.kernel.sums import MappedKeys, OutputAndSums, Sums
from qkv.shapes import Attended, Dims, Key, Query, Value, Weights
from qkv.state import Shared
from qkv.tracing import holds_for_all_sizes, without_autocast


class Linear(Core):
    """Attention through a feature map, which never forms the T×S weights unless they are asked for.

    Args:
        dims: Heads, and the widths per head of queries, keys and values.
        features: The feature map, with the members of `feature_map.FeatureMap`.
        floor: The smallest denominator, in multiples of sqrt(Σ m²); see `sums`.
        causal: Whether query t sees keys up to t + S - T only.
        is_gated: Whether calls pass the logits of a forget gate (`Masking.gate`).
    """

    has_layer_step: ClassVar[bool] = True

    def __init__(self, dims: Dims, features: Any, floor: float, causal: bool, is_gated: bool = False) -> None:
        super().__init__()
        self.features, self.floor = features, floor
        self.has_backends = isinstance(features, BackendMap)
        self.heads, self.value_width, self.causal, self.is_gated = dims.heads, dims.value, causal, is_gated

    def forward(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Tensor:
        """Average the values; in float32 at least, even under autocast, because sums must not saturate.

        Args:
            q: [B,H,T,D].
            k: [B,Hk,S,D]; query heads may share a key head.
            v: [B,Hk,S,E].
            masking: `keep` and `gate`; `allow` and `bias` are not supported.

        Returns:
            out [B,H,T,E]; 0 for a query without keys.

        Raises:
            BadMask: `allow` or `bias` is set, or the gate is missing or not expected.
        """
        check_no_pair_masks_and_gate_as_expected(masking, self.is_gated)
        queries, keys = q.shape[2], k.shape[2]
        backend = select_faster_backend_or_none(self.has_backends, q, k, v)
        if backend is not None and not (holds_for_all_sizes(queries == 0) or holds_for_all_sizes(keys == 0)):
            if self.causal and queries != keys:
                return self._attend_causally(q, k, v, masking)
            projections = self.features.choose_projections()
            return self._run_backend(backend, projections, (q, k, v), masking, None, self.causal).out
        if self._is_pairwise_cheaper(queries, keys):
            return self.attend(q, k, v, masking).out
        if self.causal:
            return self._attend_causally(q, k, v, masking)
        return self.attend_to_state(q, self.start(k, v, masking))[0].out

    def attend(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Attended:
        """`forward` together with the weights [B,H,T,S] that the feature map implies."""
        check_no_pair_masks_and_gate_as_expected(masking, self.is_gated)
        with without_autocast(q):
            projections = self.features.choose_projections()
            query_features = self.features.map_queries(promote_to_float32(q), projections)
            keys = self._map_keys(k, v, masking, projections)
            keep = masks.expand_keep(masking.keep)
            weights = compute_attention_weights(
                query_features, keys.features, keep, keys.key_weights, self.causal, self.floor
            )
            out = weights @ keys.values[..., :-1]  # [B,H,T,S] @ [B,H,S,E] -> [B,H,T,E]
        return Attended(out.to(v.dtype), weights.to(v.dtype))

    def start(
        self, k: Key, v: Value, masking: Masking = Masking(), return_weights: bool = False
    ) -> LinearState:
        """The state that has read these keys and values.

        Args:
            k: [B,Hk,S,D].
            v: [B,Hk,S,E].
            masking: `keep` and `gate` of these keys.
            return_weights: Whether to keep φ(k), from which `attend_to_state` and `extend` compute weights.

        Returns:
            The state after the last key.
        """
        check_no_pair_masks_and_gate_as_expected(masking, self.is_gated)
        backend = None if return_weights else select_faster_backend_or_none(self.has_backends, k, v)
        if backend is not None:
            projections = self.features.choose_projections()
            no_queries = k.new_zeros(k.shape[0], self.heads, 0, k.shape[3])
            tensors = (no_queries, k, v)
            _, after = self._run_backend(backend, projections, tensors, masking, None, causal=False)
            return LinearState(*after, Shared(projections))
        with without_autocast(k):
            projections, history = self.features.choose_projections(), None
            sums = sum_keys_in_chunks(self.features, self.heads, k, v, masking, projections)
            if return_weights:
                keys = self._map_keys(k, v, masking, projections)
                history = KeyHistory(keys.features, keys.values[..., -1], keys.key_weights)
            return LinearState(*sums, Shared(projections), history)

    def extend(
        self, state: LinearState, q: Query, k: Key, v: Value, masking: Masking = Masking()
    ) -> tuple[Attended, LinearState]:
        """Read further positions in order; each query sees the keys up to its own.

        Args:
            state: What `start` or `extend` returned.
            q: [B,H,t,D] of the new positions.
            k: [B,Hk,t,D] of the new positions.
            v: [B,Hk,t,E] of the new positions.
            masking: `keep` and `gate` of the new keys.

        Returns:
            The output [B,H,t,E] with weights if the state has a history, and the state after the last
            position.

        Raises:
            BadShape: The state comes from an attention of other sizes.
        """
        check_no_pair_masks_and_gate_as_expected(masking, self.is_gated)
        check_state_sizes(state, self.heads, self.features.width, self.value_width)
        backend = (
            None if state.history is not None else select_faster_backend_or_none(self.has_backends, q, k, v)
        )
        if backend is not None and state.feature_sums.dtype == torch.float32:
            carry = Sums(state.feature_sums, state.plain_sums, state.log_scale)
            projections = state.projections.value
            out, after = self._run_backend(backend, projections, (q, k, v), masking, carry, causal=True)
            return Attended(out, None), LinearState(*after, state.projections)
        with without_autocast(q):
            projections, carry = state.projections.value, cast_state_sums_to_float32_or_64(state, q)
            out, after = average_causally_in_chunks(
                self.features, self.heads, self.floor, (q, k, v), masking, projections, carry
            )
            history, weights = state.history, None
            if history is not None:
                history = append_keys_to_history(history, self._map_keys(k, v, masking, projections))
                weights = self._compute_weights_over_history(q, history, projections, causal=True).to(v.dtype)
        return Attended(out, weights), LinearState(*after, state.projections, history)

    def step_layer_natively_or_none(
        self, layers: tuple[nn.Module, nn.Module, nn.Module], x: Tensor, state: LinearState
    ) -> tuple[Tensor, LinearState] | None:
        """A decoding step of a complete attention layer in one native call; None where that is not possible.

        Args:
            layers: The projections to queries, to keys and values, and to the output.
            x: [B,t,M], the new positions.
            state: What `start` or a step returned.

        Returns:
            The output [B,t,M] of the layer, and the state after it.
        """
        float32 = state.feature_sums.dtype == torch.float32
        if self.is_gated or not self.has_backends or state.history is not None or not float32:
            return None
        if not layer_step.can_run_layer_step(layers, x):
            return None
        check_state_sizes(state, self.heads, self.features.width, self.value_width)
        feature_map = self.features.describe_for_backends(state.projections.value)
        if state.log_scale is not None and feature_map.map not in RESCALING_MAPS:
            return None
        carry = Sums(state.feature_sums, state.plain_sums, state.log_scale)
        out, after = layer_step.run_layer_step(layers, x, self.heads, feature_map, carry, self.floor)
        return out, LinearState(*after, state.projections)

    def attend_to_state(self, q: Query, state: LinearState) -> tuple[Attended, LinearState]:
        """Attend from queries to all keys of the state, which stays as it is.

        Args:
            q: [B,H,T,D].
            state: What `start` or `extend` returned.

        Returns:
            The output [B,H,T,E] with weights if the state has a history, and the same state.

        Raises:
            BadShape: The state comes from an attention of other sizes.
        """
        check_state_sizes(state, self.heads, self.features.width, self.value_width)
        backend = None if state.history is not None else select_faster_backend_or_none(self.has_backends, q)
        projections = state.projections.value
        if backend is not None and state.feature_sums.dtype == torch.float32:
            no_keys = q.new_zeros(*q.shape[:2], 0, q.shape[3]), q.new_zeros(*q.shape[:2], 0, self.value_width)
            carry = Sums(state.feature_sums, state.plain_sums, state.log_scale)
            out, _ = self._run_backend(backend, projections, (q, *no_keys), Masking(), carry, causal=False)
            return Attended(out, None), state
        with without_autocast(q):
            history, weights = state.history, None
            if history is not None:
                weights = self._compute_weights_over_history(q, history, projections, causal=False)
                weights = weights.to(q.dtype)
            sums = cast_state_sums_to_float32_or_64(state, q)
            out = map_queries_and_average_over_sums(self.features, self.floor, q, projections, sums)
        return Attended(out, weights), state

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        width, backends = self.features.width, describe_backends(self.has_backends, max(queries, keys))
        if self._is_pairwise_cheaper(queries, keys):
            return (
                f"feature map, pairwise: at {queries}×{keys} the pairs cost less than the sums of {width} "
                f"features; the result is the same{backends}"
            )
        chunks = f"{width} features, summed in chunks of {CHUNK}"
        return f"feature map, linear in {queries}+{keys}: {chunks}{backends}"

    def _run_backend(
        self,
        backend: Any,
        projections: Tensor | None,
        tensors: tuple[Tensor, Tensor, Tensor],
        masking: Masking,
        carry: Sums | None,
        causal: bool,
    ) -> OutputAndSums:
        """out [B,H,T,E] of q, k and v after the earlier keys in `carry`, and the sums after the last key."""
        q, k, v = tensors[0], *(repeat_heads(x, self.heads) for x in tensors[1:])
        with without_autocast(q):
            gate = None if masking.gate is None else promote_to_float32(masking.gate)
            log_factor = self.features.compute_key_log_factor_outside_backend(k)
            key_weights = compute_key_weights(log_factor, gate, masking.keep)
            feature_map = self.features.describe_for_backends(projections)
            return backend.compute_linear_attention(
                feature_map, (q, k, v), key_weights, masking.keep, carry, causal, self.floor
            )

    def _is_pairwise_cheaper(self, queries: int, keys: int) -> bool:
        """Whether T·S pairs take fewer multiplications than the sums over features."""
        features, values = self.features.width, self.value_width + 1
        return holds_for_all_sizes(
            queries * keys * (features + values) <= (queries + keys) * features * values
        )

    def _map_keys(self, k: Key, v: Value, masking: Masking, projections: Any) -> MappedKeys:
        """Map these keys with the feature map of this module."""
        return repeat_heads_and_map_keys(self.features, self.heads, k, v, masking, projections)

    def _attend_causally(self, q: Query, k: Key, v: Value, masking: Masking) -> Tensor:
        """Causal attention of T queries and S keys, whose ends are aligned."""
        extra = k.shape[2] - q.shape[2]
        queries_without_keys, keys_before = max(-extra, 0), max(extra, 0)
        before, after = slice(keys_before), slice(keys_before, None)
        state = self.start(k[:, :, before], v[:, :, before], slice_keep_and_gate(masking, before))
        q = q[:, :, queries_without_keys:]
        attended, _ = self.extend(
            state, q, k[:, :, after], v[:, :, after], slice_keep_and_gate(masking, after)
        )
        return F.pad(attended.out, (0, 0, queries_without_keys, 0)) if queries_without_keys else attended.out

    def _compute_weights_over_history(
        self, q: Query, history: KeyHistory, projections: Any, causal: bool
    ) -> Weights:
        """The weights [B,H,T,S] of queries over all keys of the history."""
        query_features = self.features.map_queries(promote_to_float32(q), projections)
        keep = history.keep[:, :, None] > 0
        return compute_attention_weights(
            query_features, history.features, keep, history.key_weights, causal, self.floor
        )
