"""Prepares the inputs of the kernels: strided tensors, and what is one number for every token."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.triton import forward
from qkv.kernel.triton.call import (
    PairWeights,
    Sizes,
    StridedTensor,
    Vectors,
    compute_grid_of_chunks,
    launch_kernel,
    make_strided,
)
from qkv.kernel.triton.relative_weights import (
    LogWeights,
    RelativeWeights,
    compute_bidirectional_relative_weights,
    compute_causal_relative_weights,
)
from qkv.score.cosine import MIN_VECTOR_LENGTH


class KernelInputs(NamedTuple):
    """The inputs of the kernels.

    Args:
        s: the sizes.
        q: the queries.
        k: the keys.
        v: the values.
        matrix: [H,R,D], the projection W, contiguous; None for a map without.
        pair_weights: for the weights of pairs within a chunk.
        weights: the relative weights, one number for every token or chunk.
    """

    s: Sizes
    q: Vectors
    k: Vectors
    v: StridedTensor
    matrix: Tensor | None
    pair_weights: PairWeights
    weights: RelativeWeights


def compute_kernel_inputs(
    s: Sizes,
    tensors: tuple[Tensor, Tensor, Tensor],
    keep: Tensor | None,
    matrix: Tensor | None,
    squared_length_factor: float,
    weights: LogWeights,
) -> KernelInputs:
    """Compute lengths, largest logits and weights, which the kernels read.

    Args:
        s: the sizes.
        tensors: q, k and v.
        keep: [B,S], True for real keys; None where all are real.
        matrix: [H,R,D], the projection; None for a map without.
        squared_length_factor: as in `feature_map.MapDescription`.
        weights: the log weights of the keys.
    """
    q, k, v = tensors
    matrix = None if matrix is None else matrix.contiguous()
    query_scalars, key_scalars = (_compute_inverse_lengths_or_max_logits(s, x, matrix) for x in (q, k))
    if key_scalars is not None and keep is not None:
        key_scalars = key_scalars.masked_fill(~keep[:, None], 0)
    if s.rescales_keys and key_scalars is not None:
        log_factor = key_scalars - squared_length_factor * _compute_vector_lengths(k).square()
        log_factor = log_factor if keep is None else log_factor.masked_fill(~keep[:, None], 0)
        weights = weights._replace(log_weights=weights.log_weights + log_factor.flatten(0, 1))
    compute_weights = compute_causal_relative_weights if s.causal else compute_bidirectional_relative_weights
    relative = compute_weights(weights, s.chunk)
    pair_weights = PairWeights(
        weights.log_weights, weights.log_decay, relative.max_log_weights, relative.carry_factors
    )
    queries, keys = Vectors(make_strided(q), query_scalars), Vectors(make_strided(k), key_scalars)
    return KernelInputs(s, queries, keys, make_strided(v), matrix, pair_weights, relative)


def _compute_inverse_lengths_or_max_logits(s: Sizes, x: Tensor, matrix: Tensor | None) -> Tensor | None:
    """The `scalars` of `call.Vectors`."""
    if s.unit:
        return _compute_vector_lengths(x).clamp_min(MIN_VECTOR_LENGTH).reciprocal()
    if not s.rescales_keys:
        return None
    max_logits = x.new_empty(x.shape[:3], dtype=torch.float32)
    grid = compute_grid_of_chunks(s, max_logits)
    launch_kernel(
        forward.find_max_logits, grid, Vectors(make_strided(x), None), matrix, max_logits, x.shape[2], s
    )
    return max_logits


def _compute_vector_lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).contiguous()
