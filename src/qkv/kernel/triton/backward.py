"""The kernels of the backward pass.  With U_t the gradient of query t's sums, and m_ts the mass of key s:

    d φ(q_t) = Σ_s m_ts (U_t·v_s) φ(k_s)            the sums of the keys before a chunk, and its own pairs
    d φ(k_s) = Σ_t m_ts (U_t·v_s) φ(q_t)            the sums of φ(q_t) ⊗ U_t after it, and the same pairs
    d v_s    = Σ_t m_ts (φ(q_t)·φ(k_s) U_t + P_t)
    d log m_s = v_s·d v_s + 2 Σ_t m_ts² Q_t         [v, 1] for v throughout

P_t and Q_t are the gradients of the plain sums that fill a gap and of the squared masses that say how large
it is.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import Rows, Side, Weighed
from qkv.kernel.triton.tiles import (
    NOTHING,
    number_of,
    place_of,
    plain_of,
    products_of,
    read_sums,
    shares_of,
    state_of,
    tile_of,
)


@triton.jit
@no_type_check
def find_slopes(  # noqa: PLR0913, PLR0917
    grad: Rows,
    out: Rows,
    v: Rows,
    masses: Weighed,
    states: tl.tensor,
    gap: tl.tensor,
    slopes: tl.tuple,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """grad·out, and where a gap was filled grad·Σ m v, of every query."""
    at = place_of(tokens, s)
    state = state_of(states, at, s)
    real = at.rows < tokens
    average = tl.zeros((s.chunk,), tl.float32)
    plain = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        slope = tile_of(grad, at, real, columns, s.value, s)
        average += tl.sum(slope * tile_of(out, at, real, columns, s.value, s), 1)
        plain += tl.sum(slope * plain_of(state, columns, s)[None, :], 1)
    if tl.max(number_of(gap, at), 0) > 0 and s.causal:
        real_keys = number_of(masses.written, at, NOTHING) > NOTHING
        pairs = products_of(grad, v, at, (real, real_keys), s) * shares_of(masses, at, s)
        plain = plain * number_of(masses.rest, at) + tl.sum(pairs, 1)
    tl.store(slopes[0] + at.head * tokens + at.rows, average, mask=real)
    tl.store(slopes[1] + at.head * tokens + at.rows, plain, mask=real)


@triton.jit
@no_type_check
def grad_values(  # noqa: PLR0913, PLR0917
    k: Side,
    q: Side,
    v: Rows,
    grad: Rows,
    matrix: tl.tensor,
    masses: Weighed,
    slopes: tl.tuple,
    at_end: tl.tensor,
    states: tl.tensor,
    grads: tl.tuple,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """The gradient of the values, and of the log masses as far as these columns tell it.

    states: the sums of φ(q) ⊗ U after every chunk.  grads: of v, and of the log masses [column blocks,B·H,N].
    """
    at = place_of(tokens, s)
    state = state_of(states, at, s)
    columns = tl.program_id(1) * s.value_block + tl.arange(0, s.value_block)
    queries = at.rows < tokens
    keys = number_of(masses.written, at, NOTHING) > NOTHING
    pairs, found, total = read_sums(k, q, matrix, state, at, (keys, queries), columns, s)
    ends = number_of(at_end, at)
    values = tile_of(v, at, keys, columns, s.value, s)
    found = (found + plain_of(state, columns, s)[None, :]) * ends[:, None]
    one = (total + tl.load(state + s.state - 2)) * ends + tl.load(state + s.state - 1) * 2 * ends * ends
    if s.causal:
        shares = tl.trans(shares_of(masses, at, s))
        inverse, by_one = number_of(slopes[0], at), number_of(slopes[1], at)
        by_count, by_square = number_of(slopes[2], at), number_of(slopes[3], at)
        one += tl.sum(shares * (pairs * by_one[None, :] + by_count[None, :]), 1)
        one += tl.sum(shares * shares * by_square[None, :], 1) * 2
        pairs = shares * (pairs + number_of(slopes[4], at)[None, :]) * inverse[None, :]
        slope = tile_of(grad, at, queries, columns, s.value, s)
        found += tl.dot(pairs, slope, input_precision=s.precision)
    mass = tl.sum(found * values, 1)
    if tl.program_id(1) == 0:
        mass += one
    number = at.head * tokens + at.rows
    place = grads[0] + number[:, None] * s.value + columns[None, :]
    tl.store(place, found, mask=queries[:, None] & (columns < s.value)[None, :])
    heads = tl.num_programs(0).to(tl.int64) // tl.cdiv(tokens, s.chunk)
    tl.store(grads[1] + tl.program_id(1) * heads * tokens + number, mass, mask=queries)
