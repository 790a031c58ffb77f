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

from qkv.kernel.masses import at_end, at_queries, highest, of_positions, relative
from qkv.shapes import Weights

Features = Float[Tensor, "B H N F"]
Rows = Float[Tensor, "B H N E1"]
Plain = Float[Tensor, "B H #N E2"]
CHUNK = 64


class Mapped(NamedTuple):
    """Keys and values ready to be summed: φ(k) [B,H,S,F], [v, 1] [B,H,S,E+1] with padded rows 0, and the
    masses; None where every real key has mass 1."""

    phi: Tensor
    values: Tensor
    masses: Any


class Sums(NamedTuple):
    """What has been summed so far.

    features: [B,H,F,E+1] = Σ_s m_s φ(k_s) ⊗ [v_s, 1].  plain: [B,H,1,E+2] = Σ_s m_s [v_s, 1, m_s].
    scale: [B,H,1,1], the log of what all m were divided by; None where every real key has mass 1.
    """

    features: Tensor
    plain: Tensor
    scale: Any


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


def add_up(keys: Mapped) -> Sums:
    """The sums over all these keys."""
    phi, values, masses = keys
    if masses is None:
        return Sums(phi.mT @ values, _of_ones(values).sum(2, keepdim=True), None)
    logs = at_end(masses)
    scale = highest(logs)
    share = relative(logs, scale)
    return Sums((phi.mT * share) @ values, _of_shares(share, values), scale)


def running(phi_q: Features, keys: Mapped, before: Sums, chunk: int = CHUNK) -> tuple[Rows, Plain, Sums]:
    """sums_t [B,H,T,E+1] and plain_t [B,H,T,E+2] of T queries, each over `before` and the keys up to its own;
    and the sums after the last key.  O(T) memory.
    """
    out, plain = [], []
    for begin in range(0, phi_q.shape[2], chunk):
        now = slice(begin, begin + chunk)
        of_chunk = _chunk_of_ones if keys.masses is None else _chunk_of_masses
        sums_now, plain_now, before = of_chunk(phi_q[:, :, now], _of_chunk(keys, now), before)
        out.append(sums_now)
        plain.append(plain_now)
    return _joined(out, phi_q @ before.features), _joined(plain, _of_ones(keys.values)), before


def _of_ones(values: Rows) -> Plain:
    """[v, 1] -> [v, 1, 1], and zeros where padded."""
    return torch.cat([values, values[..., -1:]], -1)


def _of_shares(share: Float[Tensor, "B H N S"], values: Float[Tensor, "B H S E1"]) -> Plain:
    """Σ_s m_s [v_s, 1, m_s]."""
    return torch.cat([share @ values, share.square().sum(-1, keepdim=True)], -1)


def _chunk_of_ones(q: Features, keys: Mapped, before: Sums) -> tuple[Rows, Plain, Sums]:
    k, v, _ = keys
    plain = before.plain + _of_ones(v).cumsum(2)
    sums = (q @ k.mT).tril() @ v + q @ before.features
    return sums, plain, Sums(before.features + k.mT @ v, plain[:, :, -1:], None)


def _chunk_of_masses(q: Features, keys: Mapped, before: Sums) -> tuple[Rows, Plain, Sums]:
    """The masses are divided, at every query, by the largest it has met."""
    (k, v, masses), scale = keys, before.scale
    logs = at_queries(masses, q.shape[2])
    kept = scale if masses.decay is None else scale + masses.decay.cumsum(2)[..., None]
    top = torch.maximum(highest(logs), kept.detach())
    share, rest = relative(logs, top), relative(kept, top)
    sums = (q @ k.mT * share) @ v + rest * (q @ before.features)
    kept_plain = torch.cat([rest * before.plain[..., :-1], rest.square() * before.plain[..., -1:]], -1)
    plain = _of_shares(share, v) + kept_plain
    features = (k.mT * share[:, :, -1:]) @ v + rest[:, :, -1:] * before.features
    return sums, plain, Sums(features, plain[:, :, -1:], top[:, :, -1:])


def _of_chunk(keys: Mapped, now: slice) -> Mapped:
    phi, values, masses = keys
    masses = None if masses is None else of_positions(masses, now)
    return Mapped(phi[:, :, now], values[:, :, now], masses)


def _joined(parts: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(parts, 2) if parts else nothing
