"""torch's fused attention: dot product, softmax and average in one operator that stores no weights."""

from typing import Any

import torch
import torch.nn.functional as F

from qkv import masks
from qkv.kernel.masking import repeat_heads
from qkv.select.soft import softmax
from qkv.shapes import Allow, Key, Out, Query, Value
from qkv.tracing import find_backend_device, holds_for_all_sizes, needs_plain_operators

# From this number of queries and keys on, the fused operator gains more on a CPU from contiguous keys than
# the copy costs.  After a projection, successive keys of one head are the width of all heads apart.
MIN_CONTIGUOUS_LENGTH = 512


def compute_fused_attention(
    q: Query, k: Key, v: Value, allow: Allow | None, causal: bool, scale: float | None, dropout: float
) -> Out:
    """Compute softmax(scale q·k) v over the allowed keys.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D]; query heads may share a key head.
        v: Values [B,Hk,S,E].
        allow: [B or 1,H or 1,T,S], True where a query may attend to a key; None for everywhere.
        causal: Whether query t sees keys 0 … t; then T = S, and `allow` is None.
        scale: The factor of the dot product; None for 1 / sqrt(D).
        dropout: The probability that a weight is set to 0.

    Returns:
        out [B,H,T,E].
    """
    if needs_plain_operators():
        return _compute_attention_with_plain_operators(q, k, v, allow, causal, scale, dropout)
    options: dict[str, Any] = {"scale": scale}
    if q.shape[1] != k.shape[1]:  # a branch, because torch.compile may hold a symbolic comparison
        options["enable_gqa"] = True
    if find_backend_device(q) != "cpu":
        return F.scaled_dot_product_attention(q, k, v, allow, dropout, causal, **options)
    is_long = holds_for_all_sizes(q.shape[2] >= MIN_CONTIGUOUS_LENGTH) and holds_for_all_sizes(
        k.shape[2] >= MIN_CONTIGUOUS_LENGTH
    )
    if is_long and q.shape[3] != v.shape[3]:
        return _attend_with_equal_widths(q, k, v, allow, causal, scale, dropout)
    if is_long and k.stride(2) > k.shape[3]:
        k, v = k.contiguous(), v.contiguous()
    if q.dtype in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(q, k, v, allow, dropout, causal, **options)
    # On a CPU torch's fused operator is several times slower in half precision than in float32.
    with torch.autocast("cpu", enabled=False):
        q, k, v_float32 = q.float(), k.float(), v.float()
        out = F.scaled_dot_product_attention(q, k, v_float32, allow, dropout, causal, **options)
    return out.to(v.dtype)


def _attend_with_equal_widths(
    q: Query, k: Key, v: Value, allow: Allow | None, causal: bool, scale: float | None, dropout: float
) -> Out:
    """The same with zeros appended to the narrower vectors.

    torch's fused operator for CPUs needs queries, keys and values of one width; for others torch forms the
    weights, which take far more time and memory.
    """
    scale, missing = q.shape[3] ** -0.5 if scale is None else scale, v.shape[3] - q.shape[3]
    if missing > 0:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
        return compute_fused_attention(q, k, v, allow, causal, scale, dropout)
    padded = F.pad(v, (0, -missing))
    return compute_fused_attention(q, k, padded, allow, causal, scale, dropout)[..., : v.shape[3]]


def _compute_attention_with_plain_operators(
    q: Query, k: Key, v: Value, allow: Allow | None, causal: bool, scale: float | None, dropout: float
) -> Out:
    """The same with weights: torch's fused operators have no forward-mode and no second derivatives."""
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    if causal:
        allow = masks.causal(q.shape[2], k.shape[2], q.device)[None, None]
    # [B,H,T,D] @ [B,H,D,S] -> [B,H,T,S]
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    return F.dropout(softmax(logits, allow), dropout) @ v  # [B,H,T,S] @ [B,H,S,E] -> [B,H,T,E]
