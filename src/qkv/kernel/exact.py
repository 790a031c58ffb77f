"""The exact evaluator: score every pair, hide what may not be seen, select, average.

weights = select(score(q, k) + bias, allow);   out = weights v
"""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv import masks
from qkv.kernel import bands, native, pairs
from qkv.kernel.bands import Bands
from qkv.kernel.cache import Cache
from qkv.kernel.core import Core
from qkv.kernel.fused import fused
from qkv.kernel.masking import Masking, repeat_heads
from qkv.kernel.pairs import Pairs
from qkv.part import Part
from qkv.shapes import Allow, Attended, Dims, Key, Logits, Query, Value
from qkv.strict import PART
from qkv.token_positions import TokenPositions, build_memory_positions, build_self_positions
from qkv.tracing import always, can_read, is_transformed


class ExactState(NamedTuple):
    """Decode state: the keys as the score prepared them, the values, which are real, and queries so far.

    remember: whether steps show their weights, for which every key is kept.
    """

    keys: Cache
    values: Cache
    keep: Tensor | None
    steps: int = 0
    remember: bool = False


class Exact(Core):
    """Attention that forms its weights: any score, any scope, any selection."""

    has_layer_step: ClassVar[bool] = False

    def __init__(self, dims: Dims, score: Any, scope: Any, select: Any, causal: bool, dropout: float) -> None:
        super().__init__()
        self.score, self.scope, self.select = score.build(dims), scope.build(dims), select.build(dims)
        self.heads, self.causal, self.dropout = dims.heads, causal, dropout
        self.positional, self.learns = score.positional or scope.positional, score.learns
        self.reach = None if score.positional else scope.reach
        self.fused = score.is_dot_product and not scope.reweights and select.is_softmax
        self.scale = score.scale if score.is_dot_product else None
        self.has_native_scores = score.has_native_scores

    def forward(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Tensor:
        """out [B,H,T,E]: by windows in bands and through torch's fused kernel where these can be used."""
        # The usual case, before anything is made that it has no use for: small inputs notice.
        unmasked = masking.keep is None and masking.allow is None and masking.bias is None
        if self.fused and unmasked and not self.positional and not (self.causal and _differ(q, k)):
            return self._fused(q, k, v, None, self.causal)
        at = self._places(q, k.shape[2], masking)
        band = self._band(q, k, masking, at)
        if band is not None:
            return self._banded(q, k, v, band)
        if self.fused and masking.bias is None:
            return self._softly(Pairs(q, k, v, masking, at, self.causal))
        return self._average(Pairs(q, self.prepare(k), v, masking, at, self.causal), shown=False).out

    def attend(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Attended:
        """out [B,H,T,E] together with the weights [B,H,T,S] that made it."""
        at = self._places(q, k.shape[2], masking)
        return self._average(Pairs(q, self.prepare(k), v, masking, at, self.causal), shown=True)

    def prepare(self, k: Key) -> Tensor:
        """The part of the score that depends on the keys alone; shared heads stay shared where they can."""
        return self.score.prepare(repeat_heads(k, self.heads) if self.learns else k)

    def start(self, k: Key, v: Value, masking: Masking = Masking(), remember: bool = False) -> ExactState:
        """The state that holds these keys and values; `remember` lets its steps show their weights."""
        return ExactState(Cache(self.prepare(k)), Cache(v), masking.keep, remember=remember)

    def extend(
        self, state: ExactState, q: Query, k: Key, v: Value, masking: Masking = Masking()
    ) -> tuple[Attended, ExactState]:
        """Read further positions one after the other; each query sees the keys up to its own."""
        state = self._append(state, k, v, masking.keep)
        looked = self._look(q, state, Masking(keep=state.keep, is_self=True), causal=True)
        return looked, self._in_reach(state)

    def read(self, q: Query, state: ExactState) -> tuple[Attended, ExactState]:
        """Attend from the next queries to everything the state holds."""
        attended = self._look(q, state, Masking(keep=state.keep), causal=False)
        return attended, state._replace(steps=state.steps + q.shape[2])

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        how = "torch.nn.functional.scaled_dot_product_attention: a dot product, selected softly"
        if self.reach is not None and bands.worth_it(queries, keys, *self._window()):
            left, right = self._window()
            size = bands.block_size(left, right)
            route = f"each through {how}" if self.fused else "explicitly"
            return (
                f"exact, in bands: {-(-queries // size)} blocks of {size} queries, each with the "
                f"{size + left + right} keys its windows reach, {route}. Asking for weights, and passing "
                "allow= or bias=, take all pairs."
            )
        if self.fused:
            mask = f", with a mask of {queries}×{keys} for the window" if self.positional else ""
            return (
                f"exact, through {how}{mask}; a mask of all pairs comes in blocks of queries. Asking for "
                "weights and passing bias= take the explicit route."
            )
        fast = self.has_native_scores and native.available()
        rows = pairs.rows_at_once(1, self.heads, keys, 1 if fast else self.score.numbers_per_pair)
        blocks = f", {rows} queries at a time (of 1 row), recomputed for gradients" if rows < queries else ""
        engine = ", scored by the native engine where these are float32 or bfloat16 on a CPU" if fast else ""
        what = f"forms {queries}×{keys} weights per head{blocks}{engine}"
        return f"exact, explicit: {what}, because only these parts say how"

    def _window(self) -> tuple[int, int]:
        left, right = self.reach or (0, 0)
        return left, 0 if self.causal else right

    def _band(self, q: Query, k: Key, masking: Masking, at: TokenPositions | None) -> Bands | None:
        pairwise = masking.allow is not None or masking.bias is not None
        if self.reach is None or at is None or pairwise:
            return None
        if not bands.worth_it(q.shape[2], k.shape[2], *self._window()):
            return None
        return bands.bands(at, masking.keep, *self._window(), in_line=self.causal or masking.is_self)

    def _banded(self, q: Query, k: Key, v: Value, band: Bands) -> Tensor:
        k = k if self.fused else self.prepare(k)
        return bands.attended(self._of_blocks, q, k, v, band)

    def _of_blocks(self, q: Query, k: Tensor, v: Value, allow: Allow) -> Tensor:
        if self.fused:
            return self._fused(q, k, v, allow)
        return self._average(Pairs(q, k, v, Masking(allow=allow), None, causal=False), shown=False).out

    def _softly(self, met: Pairs) -> Tensor:
        """The fused route: at once where no mask has a row for every query, else block after block."""
        (q, k, v, masking, at, causal), queries = met, met.q.shape[2]
        if masking.allow is None and at is None:
            if not causal:
                return self._fused(q, k, v, masks.expand_keep(masking.keep))
            if masking.keep is None and not _differ(q, k):
                return self._fused(q, k, v, None, causal=True)
        rows = pairs.rows_at_once(q.shape[0], 1, k.shape[2], 1)
        return pairs.in_blocks(partial(self._softly_of_rows, met), queries, rows).out

    def _softly_of_rows(self, met: Pairs, rows: slice) -> Attended:
        q, k, v, masking, at, causal = pairs.cut(met, rows)
        reach, _ = self.scope(q, at)
        return Attended(self._fused(q, k, v, self._allowed(q, k.shape[2], masking, causal, reach)), None)

    def _fused(self, q: Query, k: Key, v: Value, allow: Allow | None, causal: bool = False) -> Tensor:
        return fused(q, k, v, allow, causal, self.scale, self.dropout if self.training else 0.0)

    def _in_reach(self, state: ExactState) -> ExactState:
        """The state without the keys that no later window reaches."""
        if self.reach is None or state.remember or is_transformed() or not can_read(state.values.held):
            return state
        count = self.reach[0] + 1  # a padded query stands at the last real key, and reaches back from there
        if state.keep is not None:
            later = state.keep.flip(1).cumsum(1) <= count
            count = int(later.sum(1).max())
            state = state._replace(keep=state.keep[:, max(state.keep.shape[1] - count, 0) :])
        return state._replace(keys=state.keys.last(count), values=state.values.last(count))

    def _append(self, state: ExactState, k: Key, v: Value, keep: Tensor | None) -> ExactState:
        met = state.keep
        if met is not None or keep is not None:
            old = met if met is not None else _all_real(state.values.held)
            new = keep if keep is not None else _all_real(v)
            met = torch.cat([old, new], 1)
        return state._replace(keys=state.keys.grown(self.prepare(k)), values=state.values.grown(v), keep=met)

    def _look(self, q: Query, state: ExactState, masking: Masking, causal: bool) -> Attended:
        keys, values = state.keys.held, state.values.held
        at = self._places(q, values.shape[2], masking, state.steps)
        if self.fused and not state.remember:
            causal = causal and q.shape[2] > 1  # one query stands behind every key
            return Attended(self._softly(Pairs(q, keys, values, masking, at, causal)), None)
        return self._average(Pairs(q, keys, values, masking, at, causal), shown=state.remember)

    def _average(self, met: Pairs, shown: bool) -> Attended:
        """The explicit route: block after block of queries."""
        batch, heads, queries, _ = met.q.shape
        per_pair = 1 if self._natively(met.q, met.keys) else self.score.numbers_per_pair
        rows = pairs.rows_at_once(batch, heads, met.values.shape[2], per_pair)
        met = met._replace(
            keys=repeat_heads(met.keys, self.heads), values=repeat_heads(met.values, self.heads)
        )
        if shown and always(rows < queries):
            pairs.check_room(met)
        return pairs.in_blocks(partial(self._of_rows, met, shown), queries, rows)

    def _of_rows(self, met: Pairs, shown: bool, rows: slice) -> Attended:
        return pairs.pad_weights(self._of_pairs(pairs.cut(met, rows), shown), met.values.shape[2])

    def _of_pairs(self, met: Pairs, shown: bool) -> Attended:
        q, keys, v, masking, at, causal = met
        logits = self._logits(q, keys, at)
        reach, reweight = (None, None) if at is None else self.scope(q, at)
        allow = self._allowed(q, v.shape[2], masking, causal, reach)
        if masking.bias is not None:
            bias = masking.bias.to(logits.dtype)  # where a large negative number may become -inf
            hidden = torch.isneginf(bias)
            logits = _added(logits, bias.masked_fill(hidden, 0))
            allow = masks.intersect(allow, ~hidden)
        weights, log_prob = self.select(logits, allow)
        weights = weights if reweight is None else reweight(weights)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        return Attended(mixed, weights if shown else None, log_prob)

    def _logits(self, q: Query, keys: Tensor, at: TokenPositions | None) -> Logits:
        if self._natively(q, keys):
            return native.additive(self.score.project(q), keys, self.score.v)
        return self.score(q, keys, at)

    def _natively(self, *tensors: Tensor) -> bool:
        return self.has_native_scores and not native.why_not(*tensors)

    def _places(self, q: Query, keys: int, masking: Masking, first: int = 0) -> TokenPositions | None:
        if not self.positional:
            return None
        if self.causal or masking.is_self:
            return build_self_positions(q.shape[2], keys, masking.keep, q.device)
        return build_memory_positions(q.shape[2], keys, masking.keep, first, q.device)

    @staticmethod
    def _allowed(q: Query, keys: int, masking: Masking, causal: bool, reach: Allow | None) -> Allow | None:
        ahead = masks.causal(q.shape[2], keys, q.device)[None, None] if causal else None
        return masks.intersect(ahead, masks.expand_keep(masking.keep), masking.allow, reach)


def _added(logits: Logits, bias: Tensor) -> Logits:
    """Their sum.  In float16 the smallest number and a score of -16 make -inf, which would hide the key."""
    added = logits + bias
    return added.clamp_min(torch.finfo(added.dtype).min) if added.dtype == torch.float16 else added


def _differ(q: Query, k: Key) -> bool:
    """Whether there may be more queries than keys, or fewer."""
    return not always(q.shape[2] == k.shape[2])


def _all_real(v: Value) -> Tensor:
    return torch.ones(v.shape[0], v.shape[2], dtype=torch.bool, device=v.device)


@dataclass(frozen=True, config=PART)
class Softmax(Part):
    """Exact attention with any score, scope and selection; it forms the T×S weights.

    out = select(score(q, k)) v.  Vaswani et al. 2017, eq. 1.

    >>> import qkv, torch
    >>> layer = qkv.Attention(16, heads=2, kernel=qkv.Softmax())
    >>> layer(torch.randn(1, 5, 16)).shape
    torch.Size([1, 5, 16])
    """

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "softmax"
    formula: ClassVar[str] = "select(score(q, k)) v"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"
    forms_weights: ClassVar[bool] = True
    is_gated: ClassVar[bool] = False
    estimates: ClassVar[str] = ""

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Exact:
        """Build the evaluator.

        Args:
            dims: Heads, and the widths per head.
            parts: The choice: score, scope, select, causal and dropout.
            generator: Not used: nothing is drawn.

        Returns:
            The evaluator.
        """
        return Exact(dims, parts.score, parts.scope, parts.select, parts.causal, parts.dropout)
