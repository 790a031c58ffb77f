"""Attention as a function, of parts that learn nothing."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from qkv import masks, nan
from qkv.errors import BadShape, IncompatibleParts
from qkv.kernel import Softmax
from qkv.kernel.given import Given
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Dims, Key, Query, Value
from qkv.spec import AttentionSpec


def attend(  # noqa: PLR0913 -- the fixed public signature
    q: Query,
    k: Key,
    v: Value,
    *,
    score: Any = None,
    scope: Any = Global(),
    select: Any = Soft(),
    kernel: Any = Softmax(),
    causal: bool = False,
    keep: Bool[Tensor, "B S"] | None = None,
    allow: Tensor | None = None,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Attended:
    """Attention of parts that learn nothing: q [B,H,T,D], k [B,Hk,S,D], v [B,Hk,S,E] -> out [B,H,T,E],
    weights [B,H,T,S].

    Where k is q itself, queries count their positions with the keys, as in self-attention.
    A feature map draws its projections from `generator` (seeded with 0 by default, so results repeat).
    Raises IncompatibleParts for parts that clash or that learn parameters: those live in `Attention`.
    """
    spec = AttentionSpec(score=score, scope=scope, select=select, kernel=kernel, causal=causal)
    for part in (spec.score, spec.scope, spec.kernel):
        if getattr(part, "learns", False) or getattr(part, "gate", False):
            raise IncompatibleParts(f"{part!r} learns its weights: use qkv.Attention, or a part without any")
    _check_heads(q, k, v)
    own = q is k
    if keep is not None:
        masks.checked_keep(keep, k[:, 0])
        k, v = masks.hide_keys(k, keep[:, None]), masks.hide_keys(v, keep[:, None])
        q = masks.bound_queries(q, keep[:, None]) if own else q
    nan.check(q=q, k=k, v=v, bias=bias)
    dims = Dims(q.shape[1], q.shape[-1], k.shape[-1], v.shape[-1])
    generator = generator or torch.Generator().manual_seed(0)
    core = spec.kernel.build_core(dims, spec.choice, generator).to(q.device).eval().requires_grad_(False)
    bias = masks.as_bias(bias)
    given = Given(keep, masks.as_allow(allow), bias, own)
    masks.check_pairs(given.allow, bias, (*q.shape[:3], k.shape[2]))
    return core.attend(q, k, v, given)


def _check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    fits = (
        q.shape[0] == k.shape[0] == v.shape[0] and k.shape[1:3] == v.shape[1:3] and q.shape[-1] == k.shape[-1]
    )
    if not fits or q.shape[1] % k.shape[1]:
        raise BadShape(
            f"q [B,H,T,D], k [B,H,S,D] and v [B,H,S,E] must agree in B, S and D, and the heads "
            f"of q be a multiple of those of k; got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
