"""The sums over keys that stand in for attention weights: over all keys, or running along, chunk by chunk.

    sums_t = φ(q_t)·Σ_s m_ts φ(k_s) ⊗ [v_s, 1]        plain_t = Σ_s m_ts [v_s, 1, m_ts]        m: see `masses`
    out_t  = sums_t[:E] / sums_t[E]

Features that may be negative can bring the denominator near or below zero.  Where it falls under
floor·sqrt(Σ m²), which grows as the noise of such a sum does, the gap d = floor·sqrt(Σ m²) - Σ w is filled in
proportion to the masses:

    out_t = (Σ_s w_ts v_s + d · Σ_s m_ts v_s / Σ_s m_ts) / (Σ_s w_ts + d)

which is safe whatever the sign, keeps constants constant, and is still an average with weights that can be
shown.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv import masks
from qkv.kernel.masses import NOTHING, Masses, at_end, at_queries, highest, relative
from qkv.shapes import Weights

Features = Float[Tensor, "B H N F"]
Rows = Float[Tensor, "B H N E1"]
Plain = Float[Tensor, "B H #N E2"]


class Mapped(NamedTuple):
    """Keys and values ready to be summed.

    phi: φ(k) [B,H,S,F].  values: [v, 1] [B,H,S,E+1], rows of padding 0.
    keep: [B,S], None where all are real.  masses: None where every real key has mass 1.
    """

    phi: Tensor
    values: Tensor
    keep: Any
    masses: Any


class Sums(NamedTuple):
    """What has been summed so far.

    features: [B,H,F,E+1] = Σ_s m_s φ(k_s) ⊗ [v_s, 1].  plain: [B,H,1,E+2] = Σ_s m_s [v_s, 1, m_s].
    scale: [B,H,1,1], the log of what all m were divided by; None where every real key has mass 1.
    """

    features: Tensor
    plain: Tensor
    scale: Any


class Shares(NamedTuple):
    """How much counts at each of T queries, by the largest mass that it has met.

    own: [#B,#H,T,S], the share of every key, 0 where it is still to come.  rest: [B,H,T,1], what all sums
    before them are multiplied by.  top: [B,H,T,1], the log of that mass.  Where every real key has mass 1,
    rest and top are None.
    """

    own: Tensor
    rest: Any
    top: Any


def implied_weights(
    phi_q: Features,
    phi_k: Float[Tensor, "B H S F"],
    masses: Float[Tensor, "#B #H #N S"] | Bool[Tensor, "#B #H #N S"] | None,
    floor: float,
) -> Weights:
    """The weights [B,H,T,S] a feature map implies: w / Σ w with the gap under the floor filled.

    masses: of every key at every query, 0 (or False) where it may not be seen; None for 1 everywhere.
    """
    scores = phi_q @ phi_k.mT
    seen = torch.ones_like(scores) if masses is None else masses.to(scores.dtype).expand_as(scores)
    scores = scores * seen
    total, count = scores.sum(-1, keepdim=True), seen.sum(-1, keepdim=True)
    some = count > 0
    gap = _gap(total, seen.square().sum(-1, keepdim=True), floor)
    mass = torch.where(some, total + gap, 1)
    return (scores + seen * (gap / torch.where(some, count, 1))) / mass


def normalise(sums: Rows, plain: Plain, floor: float) -> Float[Tensor, "B H N E"]:
    """Sums with and without features -> averages [B,H,N,E], the gap under the floor filled."""
    values, count, squares = plain.split([plain.shape[-1] - 2, 1, 1], -1)
    total, some = sums[..., -1:], count > 0
    gap = _gap(total, squares, floor)
    mean = values / torch.where(some, count, 1)
    return (sums[..., :-1] + gap * mean) / torch.where(some, total + gap, 1)


def _gap(total: Tensor, squares: Tensor, floor: float) -> Tensor:
    # The slope of the root at 0 is infinite; there are no keys there, and no gap to fill.
    return (floor * torch.where(squares > 0, squares, 1).sqrt() - total).clamp_min(0)


def nothing(keys: Mapped) -> Sums:
    """The sums before the first of these keys."""
    phi, values = keys.phi[:, :, :1], keys.values[:, :, :1]
    features = phi.new_zeros(*phi.shape[:2], phi.shape[-1], values.shape[-1])
    plain = phi.new_zeros(*phi.shape[:2], 1, values.shape[-1] + 1)
    return Sums(
        features, plain, None if keys.masses is None else phi.new_full((*phi.shape[:2], 1, 1), NOTHING)
    )


def add_up(keys: Mapped, before: Sums) -> Sums:
    """`before` and the sums over all these keys."""
    phi, values, _, masses = keys
    if masses is None:
        plain = torch.cat([values, values[..., -1:]], -1).sum(2, keepdim=True)
        return Sums(before.features + phi.mT @ values, before.plain + plain, None)
    logs, left = at_end(masses), _left(before, masses)[:, :, -1:]
    top = torch.maximum(highest(logs), left.detach())
    return _after(keys, before, Shares(relative(logs, top), relative(left, top), top))


def running(q: Features, keys: Mapped, before: Sums, floor: float) -> tuple[Float[Tensor, "B H T E"], Sums]:
    """The averages of the T queries of a chunk, each over `before` and the keys up to its own, and the sums
    after the last key; O(T²) memory.
    """
    k, v, _, masses = keys
    shares = _shares_of_ones(keys, q.shape[2]) if masses is None else _shares(keys, before, q.shape[2])
    own, rest = shares.own, shares.rest
    scores, old, plain = (q @ k.mT) * own, _faded(q @ before.features, rest), _faded(before.plain, rest)
    count = own.sum(-1, keepdim=True) + plain[..., -2:-1]
    squares = own.square().sum(-1, keepdim=True) + _faded(plain[..., -1:], rest)
    gap = _gap(scores.sum(-1, keepdim=True) + old[..., -1:], squares, floor)
    some = count > 0
    fill = gap / torch.where(some, count, 1)
    rows = torch.addcmul(scores, fill, own) @ v + torch.addcmul(old, fill, plain[..., :-1])
    return rows[..., :-1] / torch.where(some, rows[..., -1:], 1), _after(keys, before, shares)


def _shares_of_ones(keys: Mapped, queries: int) -> Shares:
    own = masks.causal(queries, keys.phi.shape[2], keys.phi.device)[None, None]
    own = own if keys.keep is None else own & keys.keep[:, None, None]
    return Shares(own.to(keys.phi.dtype), None, None)


def _shares(keys: Mapped, before: Sums, queries: int) -> Shares:
    logs, left = at_queries(keys.masses, queries), _left(before, keys.masses)
    top = torch.maximum(highest(logs), left.detach())
    return Shares(relative(logs, top), relative(left, top), top)


def _left(before: Sums, masses: Masses) -> Tensor:
    """The log of what all sums before are still multiplied by, [B,H,S or 1,1]."""
    return before.scale if masses.decay is None else before.scale + masses.decay.cumsum(2)[..., None]


def _faded(x: Tensor, rest: Tensor | None) -> Tensor:
    return x if rest is None else rest * x


def _after(keys: Mapped, before: Sums, shares: Shares) -> Sums:
    """The sums as they are at the last query."""
    k, v, _, masses = keys
    if masses is None:
        return add_up(keys, before)
    share, rest = shares.own[:, :, -1:], shares.rest[:, :, -1:]
    plain = torch.cat([share @ v, share.square().sum(-1, keepdim=True)], -1)
    kept = torch.cat([rest * before.plain[..., :-1], rest.square() * before.plain[..., -1:]], -1)
    return Sums((k.mT * share) @ v + rest * before.features, plain + kept, shares.top[:, :, -1:])
