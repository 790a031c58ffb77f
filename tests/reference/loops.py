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


def visible(spec: Any, masks: Masks, place: tuple[int, int, int], queries: int, keys: int) -> list[int]:
    """The keys that query t of this row and head may see; the last query is aligned with the last key."""
    row, head, t = place
    scope = formulas.SCOPES[spec.scope.name]
    return [
        s
        for s in range(keys)
        if (not spec.causal or s - (keys - 1) <= t - (queries - 1))
        and (masks.keep is None or bool(masks.keep[row, s]))
        and (masks.allow is None or bool(masks.allow[row, head, t, s]))
        and scope(t, s, queries, keys, spec.scope)
    ]


@torch.no_grad()
def layer(attention: Any, x: Tensor, memory: Tensor | None, masks: Masks) -> Looped:
    """What `attention.attend(x, memory, ...)` should return."""
    memory = x if memory is None else memory
    batch, queries, keys = len(x), x.shape[1], memory.shape[1]
    weights = torch.zeros(batch, attention.spec.heads, queries, keys, dtype=torch.float64)
    mixed = torch.zeros(batch, queries, attention.spec.heads, attention.dims.value, dtype=torch.float64)
    for row in range(batch):
        for head in range(attention.spec.heads):
            pairs = [_key_value(attention, word.double(), head) for word in memory[row]]
            for t in range(queries):
                seen = visible(attention.spec, masks, (row, head, t), queries, keys)
                if seen:
                    q = _query(attention, x[row, t].double(), head)
                    k = torch.stack([pairs[s][0] for s in seen])
                    bias = k.new_zeros(len(seen)) if masks.bias is None else masks.bias[row, head, t, seen]
                    kernel = formulas.KERNELS[attention.spec.kernel.name]
                    shares = kernel(attention.spec, attention.core, head, q, k, bias.double())
                    weights[row, head, t, seen] = shares
                    mixed[row, t, head] = sum(w * pairs[s][1] for w, s in zip(shares, seen, strict=True))
    out = [[_output(attention, torch.cat(list(heads))) for heads in row] for row in mixed]
    return Looped(torch.stack([torch.stack(row) for row in out]), weights)


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
