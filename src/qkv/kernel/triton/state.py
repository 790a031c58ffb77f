"""Packs the sums of a head into one row of numbers, which the kernels read and scan.

A row holds the feature sums Σ m φ ⊗ v [F,E], the denominator sums Σ m φ [F], and the plain sums Σ m [v, 1, m]
[E+2].
"""

import torch
from torch import Tensor

from qkv.kernel.triton.call import Sizes


def pack_state(feature_sums: Tensor, plain_sums: Tensor) -> Tensor:
    """feature_sums [B,H,F,E+1] and plain_sums [B,H,1,E+2] -> [B·H, F·E + F + E + 2]."""
    parts = (feature_sums[..., :-1].flatten(2), feature_sums[..., -1], plain_sums.flatten(2))
    return torch.cat(parts, 2).flatten(0, 1).float()


def unpack_state(state: Tensor, heads: int, s: Sizes) -> tuple[Tensor, Tensor]:
    """The reverse of `pack_state`."""
    state = state.unflatten(0, (-1, heads))
    sums, denominator_sums, plain_sums = state.split([s.mapped * s.value, s.mapped, s.value + 2], 2)
    feature_sums = torch.cat([sums.unflatten(2, (s.mapped, s.value)), denominator_sums[..., None]], 3)
    return feature_sums, plain_sums[:, :, None].clone()


def scale_packed_state(state: Tensor, factor: Tensor) -> Tensor:
    """Multiply every packed state by its factor [B·H], and the sum of the squared weights by its square."""
    return torch.cat([state[:, :-1] * factor[:, None], state[:, -1:] * factor[:, None] ** 2], 1)
