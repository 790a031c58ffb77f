"""The exact evaluator: score every pair, hide what may not be seen, select, average.

weights = select(score(q, k) + bias, allow);   out = weights v
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv import masks
from qkv.part import Part
from qkv.places import Places, from_first, in_line
from qkv.scope import Global, Window
from qkv.score import Dot, ScaledDot
from qkv.select import Soft
from qkv.shapes import Allow, Attended, Dims, Key, Query, Value
from qkv.strict import PART


class Given(NamedTuple):
    """What a caller says about who may see whom; all of it intersects.

    keep: [B,S] bool, real keys.  allow: [.,.,T,S] bool.  bias: [.,.,T,S], added to the scores.
    own: the queries are the keys (self-attention), so both count their positions together.
    gate: [B,H,S], the logits of a forgetting gate at every key.
    """

    keep: Tensor | None = None
    allow: Tensor | None = None
    bias: Tensor | None = None
    own: bool = False
    gate: Tensor | None = None


class ExactState(NamedTuple):
    """Decode state: the keys as the score prepared them, the values, which are real, and queries so far."""

    keys: Tensor
    values: Tensor
    keep: Tensor | None
    steps: int = 0


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[B,Hkv,S,*] -> [B,H,S,*]: query heads h·H/Hkv … share key head h, as in torch and Hugging Face."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


class Exact(nn.Module):
    """Attention that forms its weights: any score, any scope, any selection."""

    def __init__(self, dims: Dims, score: Any, scope: Any, select: Any, causal: bool, dropout: float) -> None:
        super().__init__()
        self.score, self.scope, self.select = score.build(dims), scope.build(dims), select.build(dims)
        self.heads, self.causal, self.dropout = dims.heads, causal, dropout
        self.positional = score.positional or scope.positional
        multiplies = isinstance(score, Dot | ScaledDot) and isinstance(scope, Global | Window)
        self.fused = multiplies and isinstance(select, Soft)
        self.scale = 1.0 if isinstance(score, Dot) else None

    def forward(self, q: Query, k: Key, v: Value, given: Given = Given()) -> Tensor:
        """out [B,H,T,E]: through torch's fused kernel where the parts are those of the Transformer."""
        if self.fused and given.bias is None:
            return self._sdpa(q, k, v, given)
        return self.attend(q, k, v, given).out

    def attend(self, q: Query, k: Key, v: Value, given: Given = Given()) -> Attended:
        """out [B,H,T,E] together with the weights [B,H,T,S] that made it."""
        at = self._places(q, k.shape[2], given)
        return self._attend(q, self.prepare(k), repeat_heads(v, self.heads), given, at)

    def prepare(self, k: Key) -> Tensor:
        """The part of the score that depends on the keys alone."""
        return self.score.prepare(repeat_heads(k, self.heads))

    def start(self, k: Key, v: Value, given: Given = Given(), remember: bool = False) -> ExactState:
        """The state that holds these keys and values (it can always show weights: `remember` changes
        nothing).
        """
        return ExactState(self.prepare(k), repeat_heads(v, self.heads), given.keep)

    def extend(
        self, state: ExactState, q: Query, k: Key, v: Value, given: Given = Given()
    ) -> tuple[Attended, ExactState]:
        """Read further positions one after the other; each query sees the keys up to its own."""
        state = self._append(state, k, v, given.keep)
        met = Given(keep=state.keep, own=True)
        at = self._places(q, state.values.shape[2], met)
        return self._attend(q, state.keys, state.values, met, at, causal=True), state

    def read(self, q: Query, state: ExactState) -> tuple[Attended, ExactState]:
        """Attend from the next queries to everything the state holds."""
        met = Given(keep=state.keep)
        at = self._places(q, state.values.shape[2], met, state.steps)
        attended = self._attend(q, state.keys, state.values, met, at, causal=False)
        return attended, state._replace(steps=state.steps + q.shape[2])

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        if self.fused:
            mask = f", with a mask of {queries}×{keys} for the window" if self.positional else ""
            return (
                "exact, through torch.nn.functional.scaled_dot_product_attention: a dot product, selected "
                f"softly{mask}. Asking for weights, passing bias= and stepping take the explicit route."
            )
        return f"exact, explicit: forms {queries}×{keys} weights per head, because only these parts say how"

    def _sdpa(self, q: Query, k: Key, v: Value, given: Given) -> Tensor:
        square = q.shape[2] == k.shape[2]
        plain = self.causal and square and given.keep is None and given.allow is None and not self.positional
        reach, _ = self.scope(q, self._places(q, k.shape[2], given))
        allow = None if plain else self._allowed(q, k.shape[2], given, self.causal, reach)
        dropout = self.dropout if self.training else 0.0
        how: dict[str, Any] = {
            "is_causal": plain,
            "scale": self.scale,
            "enable_gqa": q.shape[1] != k.shape[1],
        }
        if q.device.type != "cpu" or q.dtype in (torch.float32, torch.float64):
            return F.scaled_dot_product_attention(q, k, v, allow, dropout, **how)
        # On a CPU torch's fused kernel is several times slower in half precision than in float32.
        with torch.autocast("cpu", enabled=False):
            q, k, wide = q.float(), k.float(), v.float()
            out = F.scaled_dot_product_attention(q, k, wide, allow, dropout, **how)
        return out.to(v.dtype)

    def _append(self, state: ExactState, k: Key, v: Value, keep: Tensor | None) -> ExactState:
        met = state.keep
        if met is not None or keep is not None:
            old = met if met is not None else _all_real(state.values)
            new = keep if keep is not None else _all_real(v)
            met = torch.cat([old, new], 1)
        k, v = self.prepare(k), repeat_heads(v, self.heads)
        # A layer without parameters cannot know, when it starts, what will be read.
        keys, values = torch.cat([state.keys.to(k), k], 2), torch.cat([state.values.to(v), v], 2)
        return ExactState(keys, values, met, state.steps)

    def _attend(
        self,
        q: Query,
        prepared: Tensor,
        v: Value,
        given: Given,
        at: Places | None,
        causal: bool | None = None,
    ) -> Attended:
        logits, (reach, reweight) = self.score(q, prepared, at), self.scope(q, at)
        allow = self._allowed(q, v.shape[2], given, self.causal if causal is None else causal, reach)
        if given.bias is not None:
            bias = given.bias.to(logits.dtype)  # where a large negative number may become -inf
            hidden = torch.isneginf(bias)
            logits = logits + bias.masked_fill(hidden, 0)
            allow = masks.intersect(allow, ~hidden)
        weights, log_prob = self.select(logits, allow)
        weights = weights if reweight is None else reweight(weights)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        return Attended(mixed, weights, log_prob)

    def _places(self, q: Query, keys: int, given: Given, first: int = 0) -> Places | None:
        if not self.positional:
            return None
        if self.causal or given.own:
            return in_line(q.shape[2], keys, given.keep, q.device)
        return from_first(q.shape[2], keys, given.keep, first, q.device)

    @staticmethod
    def _allowed(q: Query, keys: int, given: Given, causal: bool, reach: Allow | None) -> Allow | None:
        ahead = masks.causal(q.shape[2], keys, q.device)[None, None] if causal else None
        return masks.intersect(ahead, masks.over_keys(given.keep), given.allow, reach)


def _all_real(v: Value) -> Tensor:
    return torch.ones(v.shape[0], v.shape[2], dtype=torch.bool, device=v.device)


@dataclass(frozen=True, config=PART)
class Softmax(Part):
    """Exact attention: the weights are formed, from whatever score, scope and selection."""

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "softmax"
    formula: ClassVar[str] = "select(score(q, k)) v"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"
    forms_weights: ClassVar[bool] = True
    twin: ClassVar[str] = ""

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Exact:
        """The evaluator for these parts (`parts` has score, scope, select, causal and dropout)."""
        return Exact(dims, parts.score, parts.scope, parts.select, parts.causal, parts.dropout)
