"""The exact evaluator: score every pair of a query and a key, mask, select, average.

weights = select(score(q, k) + bias, allow);   out = weights v

`Exact` chooses one of four routes, which give the same result:

    fused      torch's scaled_dot_product_attention, for softmax of a dot product (`fused_attention`)
    bands      windows: blocks of queries with the few keys they reach, fused or explicit (`bands`)
    tiles      neighbourhoods on a grid: the same with tiles of the grid as blocks (`tiles`)
    explicit   forms the weights, in blocks of queries (`query_blocks`)
"""

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv import masks
from qkv.kernel import native
from qkv.kernel.bands import are_bands_cheaper, attend_in_bands, build_bands
from qkv.kernel.cache import Cache
from qkv.kernel.core import Core
from qkv.kernel.exact_routes import explain_route
from qkv.kernel.exact_state import ExactState, append_keys_and_values, drop_unreachable_keys
from qkv.kernel.fused_attention import compute_fused_attention
from qkv.kernel.masking import Masking, add_bias_without_masking, combine_masks, repeat_heads
from qkv.kernel.query_blocks import (
    AttentionInputs,
    attend_in_blocks,
    check_weights_fit_into_memory,
    compute_queries_per_block,
    pad_weights_to_all_keys,
    slice_queries_and_reachable_keys,
)
from qkv.kernel.tiles import (
    are_tiles_cheaper,
    attend_in_tiles,
    build_tiles,
    check_key_count,
    cut_into_tiles,
)
from qkv.shapes import Allow, Attended, Dims, Key, Logits, Query, Value
from qkv.token_positions import TokenPositions, build_memory_positions, build_self_positions
from qkv.tracing import holds_for_all_sizes


class Exact(Core):
    """Attention with any score, any scope and any selection.

    Args:
        dims: Heads, and the widths per head of queries, keys and values.
        score: The part that scores pairs.
        scope: The part that limits which keys a query may attend to.
        select: The part that turns scores into weights.
        causal: Whether query t sees keys up to t + S - T only.
        dropout: The probability that a weight is set to 0 in training.
    """

    has_layer_step: ClassVar[bool] = False

    def __init__(self, dims: Dims, score: Any, scope: Any, select: Any, causal: bool, dropout: float) -> None:
        super().__init__()
        self.score, self.scope, self.select = score.build(dims), scope.build(dims), select.build(dims)
        self.heads, self.causal, self.dropout = dims.heads, causal, dropout
        self.positional, self.learns = score.positional or scope.positional, score.learns
        self.reach = None if score.positional else scope.reach
        self.grid = scope.grid
        self.tiling = None if scope.grid is None or score.positional else cut_into_tiles(scope.grid)
        self.is_fused = score.is_dot_product and not scope.reweights and select.is_softmax
        self.scale = score.scale if score.is_dot_product else None
        self.has_native_scores = score.has_native_scores

    def forward(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Tensor:
        """Attend without returning weights.

        Args:
            q: [B,H,T,D].
            k: [B,Hk,S,D2]; query heads may share a key head.
            v: [B,Hk,S,E].
            masking: The masks and the bias.

        Returns:
            out [B,H,T,E]; 0 for a query that may attend to no key.
        """
        # The common case first, before any mask is created: small inputs are sensitive to overhead.
        is_masked = masking.keep is not None or masking.allow is not None or masking.bias is not None
        is_plain = self.is_fused and not is_masked and not self.positional
        if is_plain and not (self.causal and _may_differ_in_length(q, k)):
            return self._run_fused_attention(q, k, v, None, self.causal)
        positions = self._build_positions_if_needed(q, k.shape[2], masking)
        if masking.allow is None and masking.bias is None and positions is not None:
            out = self._attend_in_bands_or_tiles_if_cheaper(q, k, v, masking, positions)
            if out is not None:
                return out
        if self.is_fused and masking.bias is None:
            inputs = AttentionInputs(q, k, v, masking, positions, self.causal)
            return self._attend_through_fused_operator(inputs)
        inputs = AttentionInputs(q, self.prepare_keys(k), v, masking, positions, self.causal)
        return self._attend_by_forming_weights(inputs, return_weights=False).out

    def attend(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Attended:
        """`forward` together with the weights [B,H,T,S].

        Raises:
            TooLarge: The weights do not fit into memory.
        """
        positions = self._build_positions_if_needed(q, k.shape[2], masking)
        inputs = AttentionInputs(q, self.prepare_keys(k), v, masking, positions, self.causal)
        return self._attend_by_forming_weights(inputs, return_weights=True)

    def prepare_keys(self, k: Key) -> Tensor:
        """The part of the score that depends on the keys alone; shared heads stay shared where possible."""
        return self.score.prepare(repeat_heads(k, self.heads) if self.learns else k)

    def start(
        self, k: Key, v: Value, masking: Masking = Masking(), return_weights: bool = False
    ) -> ExactState:
        """The state that holds these keys and values.

        Args:
            k: [B,Hk,S,D2].
            v: [B,Hk,S,E].
            masking: `keep` of these keys.
            return_weights: Whether `attend_to_state` and `extend` return weights.
        """
        return ExactState(Cache(self.prepare_keys(k)), Cache(v), masking.keep, return_weights=return_weights)

    def extend(
        self, state: ExactState, q: Query, k: Key, v: Value, masking: Masking = Masking()
    ) -> tuple[Attended, ExactState]:
        """Read further positions in order; each query sees the keys up to its own.

        Args:
            state: What `start` or `extend` returned.
            q: [B,H,t,D] of the new positions.
            k: [B,Hk,t,D2] of the new positions.
            v: [B,Hk,t,E] of the new positions.
            masking: `keep` of the new keys.

        Returns:
            The output [B,H,t,E] with weights if the state remembers, and the state after the last position.
        """
        state = append_keys_and_values(state, self.prepare_keys(k), v, masking.keep)
        attended = self._attend_to_masked_state(q, state, Masking(keep=state.keep, is_self=True), causal=True)
        return attended, drop_unreachable_keys(state, self.reach)

    def attend_to_state(self, q: Query, state: ExactState) -> tuple[Attended, ExactState]:
        """Attend from the next queries to all keys of the state.

        Args:
            q: [B,H,T,D].
            state: What `start` or `attend_to_state` returned.

        Returns:
            The output [B,H,T,E] with weights if the state remembers, and the state with T more steps.
        """
        attended = self._attend_to_masked_state(q, state, Masking(keep=state.keep), causal=False)
        return attended, state._replace(steps=state.steps + q.shape[2])

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        return explain_route(self, queries, keys)

    def get_reach_back_and_ahead(self) -> tuple[int, int]:
        """How many positions a window reaches back and ahead."""
        left, right = self.reach or (0, 0)
        return left, 0 if self.causal else right

    def _attend_in_bands_or_tiles_if_cheaper(
        self, q: Query, k: Key, v: Value, masking: Masking, positions: TokenPositions
    ) -> Tensor | None:
        """The output through bands or tiles; None where neither applies or they have more pairs."""
        reach, attend = self.get_reach_back_and_ahead(), self._attend_batch_of_blocks
        if self.reach is not None and are_bands_cheaper(q.shape[2], k.shape[2], *reach):
            bands = build_bands(positions, masking.keep, *reach, is_self=self.causal or masking.is_self)
            return attend_in_bands(attend, q, k if self.is_fused else self.prepare_keys(k), v, bands)
        if self.tiling is not None and are_tiles_cheaper(self.tiling, q.shape[2], k.shape[2]):
            tiles = build_tiles(self.tiling, masking.keep, self.causal, q.device)
            k = k if self.is_fused else self.prepare_keys(k)
            return attend_in_tiles(attend, q, k, v, self.tiling, tiles)
        return None

    def _attend_batch_of_blocks(self, q: Query, k: Tensor, v: Value, allow: Allow) -> Tensor:
        """The output of a batch of blocks of queries, each with its own keys."""
        if self.is_fused:
            return self._run_fused_attention(q, k, v, allow)
        inputs = AttentionInputs(q, k, v, Masking(allow=allow), None, causal=False)
        return self._attend_by_forming_weights(inputs, return_weights=False).out

    def _attend_through_fused_operator(self, inputs: AttentionInputs) -> Tensor:
        """The fused route: one call, or blocks of queries where a mask has a row for every query."""
        (q, k, v, masking, positions, causal), queries = inputs, inputs.q.shape[2]
        if masking.allow is None and positions is None:
            if not causal:
                return self._run_fused_attention(q, k, v, masks.expand_keep(masking.keep))
            if masking.keep is None and not _may_differ_in_length(q, k):
                return self._run_fused_attention(q, k, v, None, causal=True)
        block_size = compute_queries_per_block(q.shape[0], 1, k.shape[2], 1)
        attend = partial(self._attend_block_through_fused_operator, inputs)
        return attend_in_blocks(attend, queries, block_size).out

    def _attend_block_through_fused_operator(self, inputs: AttentionInputs, rows: slice) -> Attended:
        """The output of a slice of the queries, through the fused operator."""
        q, k, v, masking, positions, causal = slice_queries_and_reachable_keys(inputs, rows)
        reach, _ = self.scope(q, positions)
        allow = combine_masks(q, k.shape[2], masking, causal, reach)
        return Attended(self._run_fused_attention(q, k, v, allow), None)

    def _run_fused_attention(
        self, q: Query, k: Key, v: Value, allow: Allow | None, causal: bool = False
    ) -> Tensor:
        """Call the fused operator with the scale and dropout of this module."""
        dropout = self.dropout if self.training else 0.0
        return compute_fused_attention(q, k, v, allow, causal, self.scale, dropout)

    def _attend_to_masked_state(
        self, q: Query, state: ExactState, masking: Masking, causal: bool
    ) -> Attended:
        """Attend from queries to the keys of a state."""
        keys, values = state.keys.entries, state.values.entries
        positions = self._build_positions_if_needed(q, values.shape[2], masking, state.steps)
        is_fused = self.is_fused and not state.return_weights
        causal = causal and not (is_fused and q.shape[2] == 1)  # a single query sees all keys
        inputs = AttentionInputs(q, keys, values, masking, positions, causal)
        if is_fused:
            return Attended(self._attend_through_fused_operator(inputs), None)
        return self._attend_by_forming_weights(inputs, return_weights=state.return_weights)

    def _attend_by_forming_weights(self, inputs: AttentionInputs, return_weights: bool) -> Attended:
        """The explicit route: blocks of queries, whose weights are formed."""
        batch, heads, queries, _ = inputs.q.shape
        numbers = 1 if self._can_score_natively(inputs.q, inputs.keys) else self.score.numbers_per_pair
        block_size = compute_queries_per_block(batch, heads, inputs.values.shape[2], numbers)
        keys, values = (repeat_heads(x, self.heads) for x in (inputs.keys, inputs.values))
        # torch 2.6 compiles no _replace
        inputs = AttentionInputs(inputs.q, keys, values, inputs.masking, inputs.positions, inputs.causal)
        if return_weights and holds_for_all_sizes(block_size < queries):
            check_weights_fit_into_memory(inputs)
        attend = partial(self._attend_block_and_pad_weights, inputs, return_weights)
        return attend_in_blocks(attend, queries, block_size)

    def _attend_block_and_pad_weights(
        self, inputs: AttentionInputs, return_weights: bool, rows: slice
    ) -> Attended:
        """The output and weights of a slice of the queries, over all keys."""
        attended = self._form_weights_and_average(
            slice_queries_and_reachable_keys(inputs, rows), return_weights
        )
        return pad_weights_to_all_keys(attended, inputs.values.shape[2])

    def _form_weights_and_average(self, inputs: AttentionInputs, return_weights: bool) -> Attended:
        """Score all pairs, mask, select, and average the values."""
        q, keys, v, masking, positions, causal = inputs
        logits = self._score_pairs(q, keys, positions)
        reach, reweight = (None, None) if positions is None else self.scope(q, positions)
        allow = combine_masks(q, v.shape[2], masking, causal, reach)
        if masking.bias is not None:
            bias = masking.bias.to(logits.dtype)  # a large negative number may become -inf here
            is_masked = torch.isneginf(bias)
            logits = add_bias_without_masking(logits, bias.masked_fill(is_masked, 0))
            allow = masks.intersect(allow, ~is_masked)
        weights, log_prob = self.select(logits, allow)
        weights = weights if reweight is None else reweight(weights)
        # [B,H,T,S] @ [B,H,S,E] -> [B,H,T,E]
        out = F.dropout(weights, self.dropout, self.training) @ v
        return Attended(out, weights if return_weights else None, log_prob)

    def _score_pairs(self, q: Query, keys: Tensor, positions: TokenPositions | None) -> Logits:
        """Scores [B,H,T,S] of queries and prepared keys, by the native backend where it supports them."""
        if self._can_score_natively(q, keys):
            return native.compute_additive_scores(self.score.project(q), keys, self.score.v)
        return self.score(q, keys, positions)

    def _can_score_natively(self, *tensors: Tensor) -> bool:
        """Whether the native backend computes this score for these tensors."""
        return self.has_native_scores and not native.explain_why_unsupported(*tensors)

    def _build_positions_if_needed(
        self, q: Query, keys: int, masking: Masking, first_query: int = 0
    ) -> TokenPositions | None:
        """The positions of queries, of which the first is number `first_query`, and of keys."""
        if not self.positional:
            return None
        if self.grid is not None:
            check_key_count(self.grid, keys, self.causal)
            # a hidden cell keeps its place
            masking = Masking(None, masking.allow, masking.bias, masking.is_self, masking.gate)
        if self.causal or masking.is_self:
            return build_self_positions(q.shape[2], keys, masking.keep, q.device)
        return build_memory_positions(q.shape[2], keys, masking.keep, first_query, q.device)


def _may_differ_in_length(q: Query, k: Key) -> bool:
    """Whether the numbers of queries and keys may differ."""
    return not holds_for_all_sizes(q.shape[2] == k.shape[2])
