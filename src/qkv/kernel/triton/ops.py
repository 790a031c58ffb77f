"""The Triton route as torch operators, with the shapes of what they return and their gradients.

A backward pass works out the sums of every chunk and the features again and keeps nothing of size N×F.
"""

from typing import Any

import torch
from torch import Tensor

from qkv.kernel.native.ops import MAPS
from qkv.kernel.triton.call import Sizes, rows, sizes_of
from qkv.kernel.triton.state import packed, scaled, unpacked

NAMES = tuple(MAPS)


@torch.library.custom_op("qkv::linear_attention_by_triton", mutates_args=())
def linear_attention(  # noqa: PLR0913, PLR0917 -- an operator takes tensors and numbers, not values
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor | None,
    keep: Tensor | None,
    written: Tensor | None,
    decay: Tensor | None,
    sums: Tensor | None,
    plain: Tensor | None,
    scale: Tensor | None,
    map: int,
    unit: bool,
    causal: bool,
    square: float,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out [B,H,T,E]; what the backward pass needs of every query [3,B·H,T]; and the sums, plain sums and
    scale after the last key, as `sums.Sums`.

    causal: query t sees what the state has read and keys 0 … t; otherwise it sees them all.
    """
    from qkv.kernel.triton import sweeps

    s = sizes_of(NAMES[map], unit, causal, q, v, matrix)
    keys = sweeps.Keys(*_masses(k, keep, written, decay, plain, scale))
    call = sweeps.given(s, (q, k, v), keep, matrix, square, keys)
    states, after = sweeps.sums_of_keys(call, _before(q, s, sums, plain))
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    noted = sweeps.read(call, states, out, floor)
    return out, noted, *unpacked(after, s.heads, s), call.shares.scale.view(*q.shape[:2], 1, 1).clone()
