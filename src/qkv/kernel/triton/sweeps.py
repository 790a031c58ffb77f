"""What runs one after the other: forward, and back.  Launches the kernels on tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.triton import backward as back
from qkv.kernel.triton import backward_vectors as back_vectors
from qkv.kernel.triton import forward as ahead
from qkv.kernel.triton.call import STATE_BLOCK, Rows, Side, blocks, grid_of, launch
from qkv.kernel.triton.inputs import Masking
from qkv.kernel.triton.state import scaled


def summed(
    c: Masking,
    side: Side,
    y: Rows,
    weights: tuple[Tensor, ...],
    kept: Tensor,
    running: Tensor,
    reverse: bool = False,
) -> Tensor:
    """The sums before every chunk [B·H,C,state]; `running` [B·H,state] becomes those of all."""
    s, tokens = c.s, weights[0].shape[1]
    parts = running.new_empty(*kept.shape, s.state)
    grid = grid_of(s, weights[0], blocks(s.features, s.feature_block), blocks(s.value, s.value_block))
    launch(ahead.sum_chunks, grid, side, y, c.matrix, weights, parts, tokens, s)
    grid = (len(running), blocks(s.state, STATE_BLOCK))
    launch(ahead.add_along, grid, parts, running, kept, kept.shape[1], reverse, STATE_BLOCK, s)
    return parts


def sums_of_keys(c: Masking, before: Tensor) -> tuple[Tensor, Tensor]:
    """The sums that every chunk reads [B·H,C or 1,state], and those after the last key [B·H,state]."""
    after = scaled(before, c.shares.left)
    share = c.shares.at_end
    parts = summed(c, c.k, c.v, (share, share, share, share, share.square()), c.shares.kept, after)
    return (parts if c.s.causal else after[:, None]), after


def read(c: Masking, states: Tensor, out: Tensor, floor: float) -> Tensor:
    """Fills out [B,H,T,E]; denominator, Σ m and Σ m² of every query [3,B·H,T]."""
    s, tokens = c.s, out.shape[2]
    noted = out.new_empty(3, out.shape[0] * out.shape[1], tokens, dtype=torch.float32)
    grid = grid_of(s, noted[0], blocks(s.value, s.value_block))
    given = (c.q, c.k, c.v, c.matrix, c.masses, states, out, tuple(noted), floor, tokens, s)
    launch(ahead.read_queries, grid, *given)
    return noted


class Slopes(NamedTuple):
    """What gradients need of every query [B·H,T]: U = inverse · grad, the gradient `one` of the denominator,
    of Σ m (`count`) and of Σ m² (`squares`); that of Σ m v is fill · U.
    """

    inverse: Tensor
    one: Tensor
    count: Tensor
    squares: Tensor
    fill: Tensor


def slopes_of(c: Masking, grad: Rows, out: Rows, states: Tensor, noted: Tensor, floor: float) -> Slopes:
    """One pass over gradient and average of every query."""
    total, count, squares = noted
    some, spread = count > 0, squares > 0
    root = torch.where(spread, squares, 1).sqrt()
    gap = torch.where(some, (floor * root - total).clamp_min(0), 0)
    slopes = torch.empty_like(noted[:2])
    tokens = total.shape[1]
    given = (grad, out, c.v, c.masses, states, gap, tuple(slopes), tokens, c.s)
    launch(back.find_slopes, grid_of(c.s, total), *given)
    inverse = torch.where(some, 1 / torch.where(some, total + gap, 1), 0)
    share = 1 / torch.where(some, count, 1)
    mass, mean = slopes[0] * inverse, slopes[1] * inverse * share
    filled = gap > 0
    of_squares = torch.where(filled & spread, floor * (mean - mass) / (2 * root), 0)
    of_count = torch.where(filled, -gap * mean * share, 0)
    return Slopes(inverse, torch.where(filled, -mean, -mass), of_count, of_squares, gap * share)


def sums_of_slopes(c: Masking, grad: Rows, slopes: Slopes, running: Tensor) -> Tensor:
    """What is wanted of the sums that a chunk leaves [B·H,C or 1,state]; `running` starts as the gradient of
    the final sums and becomes that of the state that comes first, or of the sums of all.
    """
    rest = c.shares.rest if c.s.causal else torch.ones_like(slopes.one)
    inverse = rest * slopes.inverse
    weights = (
        inverse,
        rest * slopes.one,
        inverse * slopes.fill,
        rest * slopes.count,
        rest**2 * slopes.squares,
    )
    chunks = blocks(rest.shape[1], c.s.chunk)
    kept = c.shares.kept if c.s.causal else rest.new_ones(len(rest), chunks)
    parts = summed(c, c.q, grad, weights, kept, running, reverse=True)
    return parts if c.s.causal else running[:, None]


def grad_values(c: Masking, grad: Rows, slopes: Slopes, back_states: Tensor, grad_v: Tensor) -> Tensor:
    """Fills the gradient of v; that of the log masses [B·H,S]."""
    s, at_end = c.s, c.shares.at_end
    heads, tokens = at_end.shape
    mass = at_end.new_empty(blocks(s.value, s.value_block), heads, tokens)
    given = (c.k, c.q, c.v, grad, c.matrix, c.masses, tuple(slopes), at_end)
    grid = grid_of(s, at_end, len(mass))
    launch(back.grad_values, grid, *given, back_states, (grad_v, mass), tokens, s)
    return mass.sum(0)


def grad_queries(
    c: Masking, grad: Rows, slopes: Slopes, states: Tensor, grad_q: Tensor, of_matrix: bool
) -> Tensor:
    """Fills the gradient of q; that of W as far as queries tell it [H,R,D]."""
    rest = c.shares.rest if c.s.causal else torch.ones_like(slopes.one)
    weights = (rest * slopes.inverse, rest * slopes.one)
    ends = ((c.q, c.k), (grad, c.v))
    return _grad_vectors(c, ends, slopes, weights, states, grad_q, of_matrix, of_keys=False)


def grad_keys(
    c: Masking, grad: Rows, slopes: Slopes, of_mass: Tensor, states: Tensor, grad_k: Tensor, of_matrix: bool
) -> Tensor:
    """Fills the gradient of k; that of W as far as keys tell it [H,R,D].

    of_mass: what a key's own x adds to its gradient [B·H,S] (FAVOR+).
    """
    weights = (c.shares.at_end, c.shares.at_end, of_mass)
    ends = ((c.k, c.q), (c.v, grad))
    return _grad_vectors(c, ends, slopes, weights, states, grad_k, of_matrix, of_keys=True)


def _grad_vectors(
    c: Masking,
    ends: tuple[tuple[Side, Side], tuple[Rows, Rows]],
    slopes: Slopes,
    weights: tuple[Tensor, ...],
    states: Tensor,
    grad_x: Tensor,
    of_matrix: bool,
    of_keys: bool,
) -> Tensor:
    s, tokens = c.s, grad_x.shape[2]
    grid = grid_of(s, weights[0], blocks(s.width, s.width_block))
    chunks = blocks(tokens, s.chunk)
    per_chunk = weights[0].new_empty(len(grad_x), s.heads, chunks, s.features if of_matrix else 0, s.width)
    grads = (grad_x, per_chunk if of_matrix else None)
    if c.matrix is None:
        given = (*ends, c.masses, tuple(slopes), weights, states, grad_x)
        launch(back_vectors.grad_elu, grid, *given, tokens, of_keys, s)
    else:
        given = (*ends, c.matrix, c.masses, tuple(slopes), weights, states, grads)
        launch(back_vectors.grad_vectors, grid, *given, tokens, of_keys, s)
    return per_chunk.sum((0, 2))
