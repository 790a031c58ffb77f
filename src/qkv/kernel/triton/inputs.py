"""A call, ready for the kernels: its tensors as sides, and what is one number of every token."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.triton import forward as ahead
from qkv.kernel.triton.call import Rows, Side, Sizes, Weighed, grid_of, launch, rows
from qkv.kernel.triton.shares import Masses, Shares, along, at_once
from qkv.score.cosine import SHORTEST


class Masking(NamedTuple):
    """Queries, keys, values, W, and the masses: of pairs, and one number of every token."""

    s: Sizes
    q: Side
    k: Side
    v: Rows
    matrix: Tensor | None
    masses: Weighed
    shares: Shares


def prepared(
    s: Sizes,
    tensors: tuple[Tensor, Tensor, Tensor],
    keep: Tensor | None,
    matrix: Tensor | None,
    square: float,
    masses: Masses,
) -> Masking:
    """What is one number of a token: lengths, peaks, masses."""
    q, k, v = tensors
    matrix = None if matrix is None else matrix.contiguous()
    by_q, by_k = (_number(s, x, matrix) for x in (q, k))
    written = masses.written
    if by_k is not None and keep is not None:
        by_k = by_k.masked_fill(~keep[:, None], 0)
    if s.map == "favor" and by_k is not None:
        mass = by_k - square * _lengths(k).square()
        mass = mass if keep is None else mass.masked_fill(~keep[:, None], 0)
        written = written + mass.flatten(0, 1)
    shares = (along if s.causal else at_once)(written, masses.decay, masses.scale, s.chunk)
    weighed = Weighed(written, masses.decay, shares.top, shares.rest)
    return Masking(s, Side(rows(q), by_q), Side(rows(k), by_k), rows(v), matrix, weighed, shares)


def _number(s: Sizes, x: Tensor, matrix: Tensor | None) -> Tensor | None:
    if s.unit:
        return _lengths(x).clamp_min(SHORTEST).reciprocal()
    if s.map != "favor":
        return None
    peaks = x.new_empty(x.shape[:3], dtype=torch.float32)
    launch(ahead.find_peaks, grid_of(s, peaks), Side(rows(x), None), matrix, peaks, x.shape[2], s)
    return peaks


def _lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).contiguous()
