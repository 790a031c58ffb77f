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

from collections.abc import Iterable
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qkv import masks
from qkv.kernel import chunks
from qkv.kernel.masses import NOTHING, Masses, at_end, at_queries, highest, relative, split
from qkv.shapes import Weights
from qkv.tracing import is_recording

Features = Float[Tensor, "B H N F"]
Rows = Float[Tensor, "B H N E1"]
Plain = Float[Tensor, "B H #N E2"]


class Mapped(NamedTuple):
    """Keys and values ready to be summed, rows of padding 0.

    phi: φ(k) [B,H,S,F].  values: [v, 1] [B,H,S,E+1].
    masses: None where every real key has mass 1.
    """

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


class Shares(NamedTuple):
    """How much counts at each of T queries, by the largest mass that it has met.

    own: [#B,#H,T,S], the share of every key, 0 where it is still to come.  count, squares: [B,H,T,1], the sum
    of the shares of real keys, and of their squares.  rest: [B,H,T,1], what all sums before them are
    multiplied by; None where every real key has mass 1.
    """

    own: Tensor
    count: Tensor
    squares: Tensor
    rest: Any


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
    return _joined(before, _alone(keys), _fade(keys.masses))


def running(q: Features, keys: Mapped, before: Sums, floor: float) -> tuple[Float[Tensor, "B H T E"], Sums]:
    """The averages of the T queries of a chunk, each over `before` and the keys up to its own, and the sums
    after the last key.  T is a multiple of TILE, or smaller, or anything in a program that is being recorded;
    O(T·TILE) memory.
    """
    heads, length = q.shape[1:3]
    if is_recording(length):
        return _running_over_any_length(q, keys, before, floor)
    if length <= chunks.TILE:
        return _within(q, keys, before, floor), add_up(keys, before)
    masses = None if keys.masses is None else split(keys.masses, chunks.TILE)
    tiles = Mapped(_apart(keys.phi), _apart(keys.values), masses)
    befores, after = _along(tiles, before)
    return _within(_apart(q), tiles, befores, floor).unflatten(1, (heads, -1)).flatten(2, 3), after


def _apart(x: Float[Tensor, "B H N _"]) -> Float[Tensor, "B HG C _"]:
    """The tiles of a chunk as further heads, so that each operator takes them all at once."""
    return x.unflatten(2, (-1, chunks.TILE)).flatten(1, 2)


def _along(tiles: Mapped, before: Sums) -> tuple[Sums, Sums]:
    """The sums before every tile, and after the last."""
    heads = before.features.shape[1]
    seen, parts = [before], (*_alone(tiles), _fade(tiles.masses))
    for *after, fade in zip(*(_by_tile(x, heads) for x in parts), strict=False):
        seen.append(_joined(seen[-1], Sums(*after), fade))
    return Sums(*(_as_heads(*field) for field in zip(*seen[:-1], strict=True))), seen[-1]


def _by_tile(x: Tensor | None, heads: int) -> Iterable[Any]:
    return repeat(None) if x is None else x.unflatten(1, (heads, -1)).unbind(2)


def _as_heads(*tiles: Any) -> Any:
    return None if tiles[0] is None else torch.stack(tiles, 2).flatten(1, 2)


def _running_over_any_length(
    q: Features, keys: Mapped, before: Sums, floor: float
) -> tuple[Float[Tensor, "B H T E"], Sums]:
    """`running` in operators whose number does not depend on T: all tiles are combined in one product."""
    heads, length = q.shape[1:3]
    fill = -length % chunks.TILE
    q, phi, values = (F.pad(x, (0, 0, 0, fill)) for x in (q, keys.phi, keys.values))
    masses = None if keys.masses is None else split(_filled_up(keys.masses, fill), chunks.TILE)
    tiles = Mapped(_apart(phi), _apart(values), masses)
    features, plain, scale = _states_of_tiles(tiles, before)
    scales = (None, None) if scale is None else (scale[:, :, :-1].flatten(1, 2), scale[:, :, -1])
    befores = Sums(features[:, :, :-1].flatten(1, 2), plain[:, :, :-1].flatten(1, 2), scales[0])
    after = Sums(features[:, :, -1], plain[:, :, -1], scales[1])
    out = _within(_apart(q), tiles, befores, floor).unflatten(1, (heads, -1)).flatten(2, 3)
    return out[:, :, :length], after


def _filled_up(masses: Masses, count: int) -> Masses:
    """The masses of keys and of `count` padded keys behind them."""
    decay = None if masses.decay is None else F.pad(masses.decay, (0, count))
    return Masses(F.pad(masses.written, (0, count), value=NOTHING), decay)


def _states_of_tiles(tiles: Mapped, before: Sums) -> Sums:
    """The sums [B,H,n+1,..] before each of n tiles, and after the last."""
    heads = before.features.shape[1]

    def behind(first: Tensor, alone: Tensor) -> Tensor:
        return torch.cat([first[:, :, None], alone.unflatten(1, (heads, -1))], 2)

    alone, fade = _alone(tiles), _fade(tiles.masses)
    features, plain = behind(before.features, alone.features), behind(before.plain, alone.plain)
    if alone.scale is None:
        return Sums(features.cumsum(2), plain.cumsum(2), None)
    scale = behind(before.scale, alone.scale).flatten(2)
    decay = None if fade is None else F.pad(fade.unflatten(1, (heads, -1)).flatten(2), (1, 0))
    logs = at_queries(Masses(scale, decay), scale.shape[2])
    top = highest(logs)
    share = relative(logs, top)
    plain = plain.flatten(3)
    plain = torch.cat([share @ plain[..., :-1], share.square() @ plain[..., -1:]], -1)[:, :, :, None]
    features = (share @ features.flatten(3)).unflatten(3, features.shape[3:])
    return Sums(features, plain, top[..., None])


def _within(q: Features, keys: Mapped, before: Sums, floor: float) -> Float[Tensor, "B H T E"]:
    """The averages of the queries of a tile, each over `before` and the keys up to its own."""
    k, v, masses = keys
    own, count, squares, rest = _shares_of_ones(v) if masses is None else _shares(masses, before)
    scores, old, plain = (q @ k.mT) * own, _faded(q @ before.features, rest), _faded(before.plain, rest)
    count, squares = count + plain[..., -2:-1], squares + _faded(plain[..., -1:], rest)
    gap = _gap(scores.sum(-1, keepdim=True) + old[..., -1:], squares, floor)
    some = count > 0
    fill = gap / torch.where(some, count, 1)
    rows = torch.addcmul(scores, fill, own) @ v + torch.addcmul(old, fill, plain[..., :-1])
    return rows[..., :-1] / torch.where(some, rows[..., -1:], 1)


def _shares_of_ones(values: Rows) -> Shares:
    length, count = values.shape[2], values[..., -1:].cumsum(2)
    own = masks.causal(length, length, values.device)[None, None].to(values.dtype)
    return Shares(own, count, count, None)


def _shares(masses: Masses, before: Sums) -> Shares:
    logs, left = at_queries(masses, masses.written.shape[2]), _left(before, masses)
    top = torch.maximum(highest(logs), left.detach())
    own = relative(logs, top)
    count, squares = own.sum(-1, keepdim=True), own.square().sum(-1, keepdim=True)
    return Shares(own, count, squares, relative(left, top))


def _left(before: Sums, masses: Masses) -> Tensor:
    """The log of what all sums before are still multiplied by, [B,H,S or 1,1]."""
    return before.scale if masses.decay is None else before.scale + masses.decay.cumsum(2)[..., None]


def _fade(masses: Masses | None) -> Tensor | None:
    """The log of what these keys multiply all sums before by, [B,H,1,1]; None for 0."""
    return None if masses is None or masses.decay is None else masses.decay.sum(2)[..., None, None]


def _faded(x: Tensor, rest: Tensor | None) -> Tensor:
    return x if rest is None else rest * x


def _alone(keys: Mapped) -> Sums:
    """The sums over all these keys and nothing before."""
    k, v, masses = keys
    if masses is None:
        plain = v.sum(2, keepdim=True)
        return Sums(k.mT @ v, torch.cat([plain, plain[..., -1:]], -1), None)
    logs = at_end(masses)
    top = highest(logs)
    share = relative(logs, top)
    plain = torch.cat([share @ v, share.square().sum(-1, keepdim=True)], -1)
    return Sums((k.mT * share) @ v, plain, top)


def _joined(before: Sums, after: Sums, fade: Tensor | None) -> Sums:
    """The sums over keys and over those that follow, which fade what was before by `fade`."""
    if after.scale is None:
        return Sums(before.features + after.features, before.plain + after.plain, None)
    left = before.scale if fade is None else before.scale + fade
    top = torch.maximum(after.scale, left.detach())
    rest, share = relative(left, top), relative(after.scale, top)
    features = rest * before.features + share * after.features
    return Sums(features, _rescaled(before.plain, rest) + _rescaled(after.plain, share), top)


def _rescaled(plain: Plain, by: Tensor) -> Plain:
    return torch.cat([by * plain[..., :-1], by.square() * plain[..., -1:]], -1)
