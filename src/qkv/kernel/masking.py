"""The masks, the bias and the gate that every kernel accepts, as one value."""

from typing import NamedTuple

import torch
from torch import Tensor


class Masking(NamedTuple):
    """Which keys each query may attend to; all masks intersect.

    keep: [B,S] bool, real keys.  allow: [.,.,T,S] bool.  bias: [.,.,T,S], added to the scores.
    is_self: the queries are the keys (self-attention), so both count their positions together.
    gate: [B,H,S], the logits of a forgetting gate at every key.
    """

    keep: Tensor | None = None
    allow: Tensor | None = None
    bias: Tensor | None = None
    is_self: bool = False
    gate: Tensor | None = None


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[B,Hkv,S,*] -> [B,H,S,*]: query heads h·H/Hkv … share key head h, as in torch and Hugging Face."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def wide(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()
