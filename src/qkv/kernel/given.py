"""What a core is told about queries and keys, whatever kernel it has."""

from typing import NamedTuple

import torch
from torch import Tensor


class Given(NamedTuple):
    """What a caller says about who may see whom; all of it intersects.

    keep: [B,S] bool, real keys.  allow: [.,.,T,S] bool.  bias: [.,.,T,S], added to the scores.
    own: the queries are the keys (self-attention), so both count their positions together.
    gate: [B,H,S], the logits of a forgetting gate at every key.
    """

    keep: Tensor | None = None
    allow: Tensor | None = None
    bias: Tensor | None = None
    own: bool = False
    gate: Tensor | None = None


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[B,Hkv,S,*] -> [B,H,S,*]: query heads h·H/Hkv … share key head h, as in torch and Hugging Face."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def wide(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()
