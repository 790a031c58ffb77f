"""The masks, the bias and the gate that every kernel accepts, as one value; conversions of its inputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv import masks
from qkv.shapes import Allow, Logits, Query


class Masking(NamedTuple):
    """Which keys each query may attend to; all masks intersect.

    Args:
        keep: [B,S] bool, True for real keys; None where all are real.
        allow: [B or 1,H or 1,T,S] bool, True where a query may attend to a key; None for everywhere.
        bias: [B or 1,H or 1,T,S], added to the scores; None for 0.
        is_self: Whether the queries are the keys (self-attention), so that both share one count of positions.
        gate: [B,H,S], the logits of a forget gate at every key; None without a gate.
    """

    keep: Tensor | None = None
    allow: Tensor | None = None
    bias: Tensor | None = None
    is_self: bool = False
    gate: Tensor | None = None


def slice_keep_and_gate(masking: Masking, positions: slice) -> Masking:
    """The masking of a range of keys: `keep` and `gate` are sliced, `allow` and `bias` stay as they are.

    Args:
        masking: Of all keys.
        positions: Which keys.

    Returns:
        The masking of these keys.
    """
    gate = None if masking.gate is None else masking.gate[:, :, positions]
    return slice_keep_and_replace_gate(masking, positions, gate)


def slice_keep_and_replace_gate(masking: Masking, positions: slice, chunk_gate: Tensor | None) -> Masking:
    """The masking of a chunk of keys whose gate is already sliced.

    Args:
        masking: Of all keys.
        positions: Which keys.
        chunk_gate: The gate logits of these keys; None without a gate.

    Returns:
        The masking of these keys.
    """
    keep = None if masking.keep is None else masking.keep[:, positions]
    # torch 2.6 compiles no _replace
    return Masking(keep, masking.allow, masking.bias, masking.is_self, chunk_gate)


def combine_masks(q: Query, keys: int, masking: Masking, causal: bool, reach: Allow | None) -> Allow | None:
    """Intersect all masks of exact attention.

    Args:
        q: Queries [B,H,T,D].
        keys: S.
        masking: `keep` and `allow`.
        causal: Whether query t sees keys up to t + S - T only.
        reach: The mask of the scope; None for all keys.

    Returns:
        The mask [B or 1,H or 1,T or 1,S]; None where every query may attend to every key.
    """
    triangle = masks.causal(q.shape[2], keys, q.device)[None, None] if causal else None
    return masks.intersect(triangle, masks.expand_keep(masking.keep), masking.allow, reach)


def add_bias_without_masking(logits: Logits, bias: Tensor) -> Logits:
    """logits + bias, clamped to finite numbers in float16, where -inf would mask the key.

    The most negative float16 bias and a score of -16 would add up to -inf.

    Args:
        logits: Scores [B,H,T,S].
        bias: [B or 1,H or 1,T,S].

    Returns:
        Scores [B,H,T,S].
    """
    total = logits + bias
    return total.clamp_min(torch.finfo(total.dtype).min) if total.dtype == torch.float16 else total


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[B,Hkv,S,*] -> [B,H,S,*]: query heads h·H/Hkv … share key head h, as in torch and Hugging Face.

    Args:
        x: Keys or values with Hkv heads.
        heads: H, a multiple of Hkv.

    Returns:
        Keys or values with H heads.
    """
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def promote_to_float32(x: Tensor) -> Tensor:
    """x in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()
