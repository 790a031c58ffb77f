"""The sums of a head as one row of numbers, which the kernels read and add up: Σ m φ ⊗ v [F,E], Σ m φ [F],
and the plain sums Σ m [v, 1, m] [E+2].
"""

import torch
from torch import Tensor

from qkv.kernel.triton.call import Sizes


def packed(sums: Tensor, plain: Tensor) -> Tensor:
    """sums [B,H,F,E+1], plain [B,H,1,E+2] -> [B·H, F·E + F + E + 2]."""
    parts = (sums[..., :-1].flatten(2), sums[..., -1], plain.flatten(2))
    return torch.cat(parts, 2).flatten(0, 1).float()


def unpacked(row: Tensor, heads: int, s: Sizes) -> tuple[Tensor, Tensor]:
    """The same back again."""
    row = row.unflatten(0, (-1, heads))
    sums, ones, plain = row.split([s.mapped * s.value, s.mapped, s.value + 2], 2)
    sums = torch.cat([sums.unflatten(2, (s.mapped, s.value)), ones[..., None]], 3)
    return sums, plain[:, :, None].clone()


def scaled(row: Tensor, left: Tensor) -> Tensor:
    """A row of which `left` [B·H] is left: of the squares its square."""
    return torch.cat([row[:, :-1] * left[:, None], row[:, -1:] * left[:, None] ** 2], 1)
