"""torch's fused attention: dot product, softmax and average in one kernel that never stores a weight."""

from typing import Any

import torch
import torch.nn.functional as F

from qkv import masks
from qkv.kernel.masking import repeat_heads
from qkv.select.soft import softmax
from qkv.shapes import Allow, Key, Out, Query, Value
from qkv.tracing import always, needs_plain_operators

# Queries and keys from which on a CPU's caches gain more by keys that lie side by side than a copy of them
# costs.  As a projection leaves them, those of a head are all heads apart: often whole pages.
LONG = 512


def fused(
    q: Query, k: Key, v: Value, allow: Allow | None, causal: bool, scale: float | None, dropout: float
) -> Out:
    """softmax(scale q·k) v over the allowed keys; scale None is 1 / sqrt(D).  Heads of k and v may be shared.

    causal: query t sees keys 0 … t, with as many queries as keys and no `allow`.
    """
    if needs_plain_operators():
        return _by_operators(q, k, v, allow, causal, scale, dropout)
    options: dict[str, Any] = {"scale": scale}
    if q.shape[1] != k.shape[1]:  # a branch, because torch.compile may hold a symbolic comparison
        options["enable_gqa"] = True
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, allow, dropout, causal, **options)
    if always(q.shape[2] >= LONG) and always(k.shape[2] >= LONG) and k.stride(2) > k.shape[3]:
        k, v = k.contiguous(), v.contiguous()
    if q.dtype in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(q, k, v, allow, dropout, causal, **options)
    # On a CPU torch's fused kernel is several times slower in half precision than in float32.
    with torch.autocast("cpu", enabled=False):
        q, k, wide = q.float(), k.float(), v.float()
        out = F.scaled_dot_product_attention(q, k, wide, allow, dropout, causal, **options)
    return out.to(v.dtype)


def _by_operators(
    q: Query, k: Key, v: Value, allow: Allow | None, causal: bool, scale: float | None, dropout: float
) -> Out:
    """The same through the weights: torch's kernels have no forward and no second derivatives."""
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    if causal:
        allow = masks.causal(q.shape[2], k.shape[2], q.device)[None, None]
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    return F.dropout(softmax(logits, allow), dropout) @ v
