"""The linear evaluator: a feature map replaces the score, and sums over the keys replace the weights.

    w_ts = φ(q_t)·φ(k_s);   out_t = Σ_s w_ts v_s / Σ_s w_ts                         O(T + S) time and memory

Features that may be negative can bring the denominator near or below zero.  Where it falls under `floor`
times the number of keys n, the gap d = floor·n - Σ w is filled with equal weight for every key:

    out_t = (Σ_s w_ts v_s + d · mean(v)) / (Σ_s w_ts + d)

which is safe whatever the sign, keeps constants constant, and is still an average with weights that can be
shown.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv import masks
from qkv.errors import BadMask
from qkv.kernel.exact import Given, repeat_heads
from qkv.shapes import Allow, Attended, Dims, Key, Query, Value, Weights
from qkv.state import Shared

Features = Float[Tensor, "B H N F"]
CHUNK = 64


class LinearState(NamedTuple):
    """Decode state of constant size.

    sums: [B,H,F,E+1] = Σ_s φ(k_s) ⊗ [v_s, 1].  plain: [B,H,1,E+1] = Σ_s [v_s, 1].
    projections: what the feature map drew, so that keys and queries of one decode are mapped alike.
    seen: φ(k) and the real keys, where the weights are to be shown; None otherwise.
    """

    sums: Tensor
    plain: Tensor
    projections: Shared
    seen: "Seen | None" = None


class Seen(NamedTuple):
    """Everything a state has read, kept only where someone wants to look: φ(k) [B,H,S,F], keep [B,H,S] of 0
    and 1.
    """

    phi_k: Tensor
    keep: Tensor


def implied_weights(
    phi_q: Features, phi_k: Float[Tensor, "B H S F"], allow: Allow | None, floor: float
) -> Weights:
    """The weights [B,H,T,S] a feature map implies: w / Σ w with the gap under the floor filled evenly."""
    scores = phi_q @ phi_k.mT
    seen = torch.ones_like(scores) if allow is None else allow.to(scores.dtype).expand_as(scores)
    scores = scores * seen
    total, count = scores.sum(-1, keepdim=True), seen.sum(-1, keepdim=True)
    gap = (floor * count - total).clamp_min(0)
    mass = torch.where(count > 0, total + gap, 1)
    return (scores + seen * (gap / count.clamp_min(1))) / mass


def normalise(sums: Tensor, plain: Tensor, floor: float) -> Tensor:
    """[.., E+1] sums with and without features -> [.., E] averages, the gap under the floor filled evenly."""
    total, count = sums[..., -1:], plain[..., -1:]
    gap = (floor * count - total).clamp_min(0)
    some = count > 0
    mean = plain[..., :-1] / torch.where(some, count, 1)
    return (sums[..., :-1] + gap * mean) / torch.where(some, total + gap, 1)


def prefix_sums(
    phi_q: Features, phi_k: Features, v1: Tensor, sums: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Σ_{s<=t} φ(q_t)·φ(k_s) [v_s, 1] for every t, and the sums after the last key: chunk by chunk, O(T)
    memory.
    """
    out = []
    for begin in range(0, phi_q.shape[2], chunk):
        q, k, v = (x[:, :, begin : begin + chunk] for x in (phi_q, phi_k, v1))
        out.append((q @ k.mT).tril() @ v + q @ sums)
        sums = sums + k.mT @ v
    return torch.cat(out, 2) if out else phi_q @ sums, sums


class Linear(nn.Module):
    """Attention through a feature map: never forms the T×S weights unless it is asked to show them."""

    def __init__(self, dims: Dims, features: Any, floor: float, causal: bool) -> None:
        super().__init__()
        self.features, self.floor = features, floor
        self.heads, self.value, self.causal = dims.heads, dims.value, causal

    def forward(self, q: Query, k: Key, v: Value, given: Given = Given()) -> Tensor:
        """out [B,H,T,E]; runs in float32 at least, whatever autocast says, for sums must not saturate."""
        _refuse(given)
        queries, keys = q.shape[2], k.shape[2]
        if queries == 0 or keys == 0:
            return v.new_zeros(*q.shape[:3], v.shape[-1])
        if self._short(queries, keys):
            return self.attend(q, k, v, given).out
        if self.causal:
            return self._causal(q, k, v, given.keep)
        return self.read(q, self.start(k, v, given.keep)).out

    def attend(self, q: Query, k: Key, v: Value, given: Given = Given()) -> Attended:
        """out [B,H,T,E] together with the weights [B,H,T,S] that the feature map implies."""
        _refuse(given)
        ahead = masks.causal(q.shape[2], k.shape[2], q.device)[None, None] if self.causal else None
        allow = masks.intersect(ahead, masks.over_keys(given.keep))
        with torch.autocast(q.device.type, enabled=False):
            projections = self.features.draw()
            phi_q, phi_k = self.features(_wide(q), projections), self._keys(k, projections)
            weights = implied_weights(phi_q, phi_k, allow, self.floor)
            out = weights @ _wide(repeat_heads(v, self.heads))
        return Attended(out.to(v.dtype), weights.to(v.dtype))

    def start(self, k: Key, v: Value, keep: Tensor | None, remember: bool = False) -> LinearState:
        """The state that has read these keys and values; `remember` keeps φ(k), to show weights."""
        with torch.autocast(k.device.type, enabled=False):
            projections = self.features.draw()
            phi_k, v1 = self._keys(k, projections), self._values(v, keep)
            seen = Seen(phi_k, v1[..., -1]) if remember else None
            plain = v1.sum(2, keepdim=True)
            return LinearState(phi_k.mT @ v1, plain, Shared(projections), seen)

    def extend(
        self, state: LinearState, q: Query, k: Key, v: Value, keep: Tensor | None
    ) -> tuple[Attended, LinearState]:
        """Read further positions one after the other; each query sees the keys up to its own."""
        with torch.autocast(q.device.type, enabled=False):
            projections = state.projections.value
            phi_q, phi_k = self.features(_wide(q), projections), self._keys(k, projections)
            v1 = self._values(v, keep)
            sums, last = prefix_sums(phi_q, phi_k, v1, state.sums)
            plain, total = state.plain + v1.cumsum(2), state.plain + v1.sum(2, keepdim=True)
            seen, weights = state.seen, None
            if seen is not None:
                seen = Seen(torch.cat([seen.phi_k, phi_k], 2), torch.cat([seen.keep, v1[..., -1]], 2))
                weights = self._shown(phi_q, seen, causal=True)
            out = normalise(sums, plain, self.floor).to(v.dtype)
        return Attended(out, _like(weights, v)), LinearState(last, total, state.projections, seen)

    def read(self, q: Query, state: LinearState) -> Attended:
        """Attend from further queries to everything the state has read."""
        with torch.autocast(q.device.type, enabled=False):
            phi_q = self.features(_wide(q), state.projections.value)
            weights = None if state.seen is None else self._shown(phi_q, state.seen, causal=False)
            out = normalise(phi_q @ state.sums, state.plain, self.floor)
        return Attended(out.to(q.dtype), _like(weights, q))

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        if self._short(queries, keys):
            return (
                f"feature map, pairwise: at {queries}×{keys} the pairs cost less than the sums of "
                f"{self.features.width} features; the result is the same"
            )
        how = f"in chunks of {CHUNK}" if self.causal else "as one sum over all keys"
        return f"feature map, linear in {queries}+{keys}: {self.features.width} features, summed {how}"

    def _short(self, queries: int, keys: int) -> bool:
        width, value = self.features.width, self.value + 1
        return queries * keys * (width + value) <= (queries + keys) * width * value

    def _keys(self, k: Key, projections: Tensor | None) -> Tensor:
        return self.features(_wide(repeat_heads(k, self.heads)), projections)

    def _values(self, v: Value, keep: Tensor | None) -> Tensor:
        v1 = F.pad(_wide(repeat_heads(v, self.heads)), (0, 1), value=1.0)
        return v1 if keep is None else v1 * keep[:, None, :, None]

    def _causal(self, q: Query, k: Key, v: Value, keep: Tensor | None) -> Tensor:
        ahead = k.shape[2] - q.shape[2]
        blind, seen = max(-ahead, 0), max(ahead, 0)
        before, after = (None, None) if keep is None else (keep[:, :seen], keep[:, seen:])
        state = self.start(k[:, :, :seen], v[:, :, :seen], before)
        attended, _ = self.extend(state, q[:, :, blind:], k[:, :, seen:], v[:, :, seen:], after)
        return F.pad(attended.out, (0, 0, blind, 0))

    def _shown(self, phi_q: Tensor, seen: "Seen", causal: bool) -> Weights:
        ahead = (
            masks.causal(phi_q.shape[2], seen.phi_k.shape[2], phi_q.device)[None, None] if causal else None
        )
        allow = masks.intersect(ahead, seen.keep[:, :, None] > 0)
        return implied_weights(phi_q, seen.phi_k, allow, self.floor)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _like(weights: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(x.dtype)


def _refuse(given: Given) -> None:
    for name in ("allow", "bias"):
        if getattr(given, name) is not None:
            raise BadMask(
                f"{name}= cannot be honoured by a feature-map kernel: it sums over all keys or a prefix. "
                "Use keep= and causal=True, or kernel=Softmax()"
            )
