"""Attention as loops over rows, heads and positions, in float64."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.shapes import Attended
from reference import formulas


class Masks(NamedTuple):
    """What may be seen: keep [B,S], allow [B,H,T,S], and what is added to the scores [B,H,T,S]."""

    keep: Tensor | None = None
    allow: Tensor | None = None
    bias: Tensor | None = None


class Looped(NamedTuple):
    """out [B,T,M], weights [B,H,T,S]."""

    out: Tensor
    weights: Tensor


def weights_of(attended: Attended) -> Tensor:
    """The weights, which only a state that does not remember may leave out."""
    assert attended.weights is not None
    return attended.weights


class Place(NamedTuple):
    """Which row of the batch, head and query; T queries and S keys; whether queries are keys too."""

    row: int
    head: int
    t: int
    queries: int
    keys: int
    own: bool


def shares(attention: Any, place: Place, masks: Masks, q: Tensor) -> dict[int, float]:
    """The keys that a query may see, and what the scope multiplies their weights with.

    Positions count real keys, or all cells of a grid.  Queries that are keys too, or causal ones, end where
    the keys end; others stand at 0, 1, ... and the ones after the last key at the last.
    """
    spec, (row, head, t, queries, keys, own) = attention.spec, place
    real = [masks.keep is None or bool(masks.keep[row, s]) for s in range(keys)]
    counted = [True] * keys if formulas.positions_count_padding(spec.scope) else real
    positions, count = [sum(counted[: s + 1]) - 1 for s in range(keys)], sum(counted)
    facing = t + keys - queries
    at = min(t, max(count - 1, 0))
    if own or spec.causal:
        at = positions[facing] if facing >= 0 else facing
    scope, built = formulas.SCOPES[spec.scope.name], getattr(attention.core, "scope", None)
    told = {
        s: scope(q, at, positions[s], count, spec.scope, built, head)
        for s in range(keys)
        if real[s]
        and (not spec.causal or s <= facing)
        and (masks.allow is None or bool(masks.allow[row, head, t, s]))
    }
    return {s: factor for s, factor in told.items() if factor is not None}


def reach(attention: Any, x: Tensor, memory: Tensor | None, masks: Masks) -> list[list[list[list[int]]]]:
    """[B][H][T] -> the keys that each query may see."""
    size = (x if memory is None else memory).shape[1]
    return [
        [
            [
                list(
                    shares(
                        attention,
                        Place(row, head, t, x.shape[1], size, memory is None),
                        masks,
                        _query(attention, x[row, t].detach().double(), head),
                    )
                )
                for t in range(x.shape[1])
            ]
            for head in range(attention.dims.heads)
        ]
        for row in range(len(x))
    ]


@torch.no_grad()
def layer(attention: Any, x: Tensor, memory: Tensor | None, masks: Masks) -> Looped:
    """What `attention.attend(x, memory, ...)` should return."""
    own, memory = memory is None, x if memory is None else memory
    batch, queries, keys = len(x), x.shape[1], memory.shape[1]
    weights = torch.zeros(batch, attention.dims.heads, queries, keys, dtype=torch.float64)
    mixed = torch.zeros(batch, queries, attention.dims.heads, attention.dims.value, dtype=torch.float64)
    for row in range(batch):
        for head in range(attention.dims.heads):
            pairs = [_key_value(attention, word.double(), head) for word in memory[row]]
            gates = _gates(attention, memory[row], head)
            for t in range(queries):
                place = Place(row, head, t, queries, keys, own)
                q = _query(attention, x[row, t].double(), head)
                given = _weights(attention, place, masks, q, [key for key, _ in pairs], gates)
                for s, weight in given.items():
                    weights[row, head, t, s] = weight
                    mixed[row, t, head] += weight * pairs[s][1]
    out = [[_output(attention, torch.cat(list(heads))) for heads in row] for row in mixed]
    return Looped(torch.stack([torch.stack(row) for row in out]), weights)


def _weights(
    attention: Any, place: Place, masks: Masks, q: Tensor, keys: list[Tensor], gates: Tensor | None
) -> dict[int, float]:
    factors = shares(attention, place, masks, q)
    if not factors:
        return {}
    at = list(factors)
    k = torch.stack([keys[s] for s in at])
    bias = k.new_zeros(len(at)) if masks.bias is None else masks.bias[place.row, place.head, place.t, at]
    keep = None if formulas.positions_count_padding(attention.spec.scope) else masks.keep
    counted = torch.ones(place.keys) if keep is None else keep[place.row].double()
    places = [int(counted[: s + 1].sum()) - 1 for s in at]
    seen = formulas.Seen(k, bias.double(), places, None if gates is None else gates[at])
    kernel = formulas.KERNELS[attention.spec.kernel.name]
    told = kernel(attention.spec, attention.core, place.head, q, seen).tolist()
    told = [weight * factor for weight, factor in zip(told, factors.values(), strict=True)]
    total = sum(told) if formulas.renormalised(attention.spec.scope) else 1.0
    return {s: weight / total for s, weight in zip(at, told, strict=True)}


def _gates(attention: Any, memory: Tensor, head: int) -> Tensor | None:
    if not getattr(attention.spec.kernel, "gate", False):
        return None
    linear = attention.to_gate
    return memory.double() @ linear.weight[head].double() + linear.bias[head].double()


def _query(attention: Any, x: Tensor, head: int) -> Tensor:
    return _projected(attention.to_q, x, head, attention.dims.query) if attention.spec.project else x


def _key_value(attention: Any, memory: Tensor, head: int) -> tuple[Tensor, Tensor]:
    spec, width = attention.spec, attention.dims.key
    if not spec.project:
        return memory, memory
    shared = spec.kv_heads or spec.heads
    group = head // (spec.heads // shared)
    key = _projected(attention.to_kv, memory, group, width)
    return key, _projected(attention.to_kv, memory, shared + group, width)


def _projected(linear: Any, x: Tensor, block: int, width: int) -> Tensor:
    rows = slice(block * width, (block + 1) * width)
    projected = linear.weight[rows].double() @ x
    return projected if linear.bias is None else projected + linear.bias[rows].double()


def _output(attention: Any, mixed: Tensor) -> Tensor:
    if not attention.spec.project:
        return mixed
    out = attention.to_out.weight.double() @ mixed
    return out if attention.to_out.bias is None else out + attention.to_out.bias.double()
