"""The kernels of the backward pass.  With U_t the gradient of query t's sums, and m_ts the mass of key s:

    d φ(q_t) = Σ_s m_ts (U_t·v_s) φ(k_s)            the sums of the keys before a chunk, and its own pairs
    d φ(k_s) = Σ_t m_ts (U_t·v_s) φ(q_t)            the sums of φ(q_t) ⊗ U_t after it, and the same pairs
    d v_s    = Σ_t m_ts (φ(q_t)·φ(k_s) U_t + P_t)
    d log m_s = v_s·d v_s + 2 Σ_t m_ts² Q_t         [v, 1] for v throughout

P_t and Q_t are the gradients of the plain sums that fill a gap and of the squared masses that say how large it is.
"""

import triton
import triton.language as tl

from qkv.kernel.triton.call import Rows, Side, Sizes, Weighed
from qkv.kernel.triton.tiles import (
    NOTHING,
    features_of,
    matrix_of,
    number_of,
    ones_of,
    place_of,
    plain_of,
    read_sums,
    shares_of,
    state_of,
    sums_of,
    tile_of,
)


@triton.jit
def products_of(x: Rows, y: Rows, at: tl.tuple, reals: tl.tuple, s: tl.constexpr) -> tl.tensor:
    """x_i·y_j of values [i, j] of the chunk."""
    products = tl.zeros((s.chunk, s.chunk), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        x_tile = tile_of(x, at, reals[0], columns, s.value, s)
        y_tile = tile_of(y, at, reals[1], columns, s.value, s)
        products += tl.dot(x_tile, tl.trans(y_tile), input_precision=s.precision)
    return products


@triton.jit
def find_slopes(grad: Rows, out: Rows, v: Rows, masses: Weighed, states: tl.tensor, gap: tl.tensor, slopes: tl.tuple, tokens: tl.tensor, s: tl.constexpr) -> None:  # noqa: E501, PLR0913, PLR0917
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
def logit_slope(slope: tl.tensor, second_slope: tl.tensor, phi: tl.tensor, second: tl.tensor, s: tl.constexpr) -> tl.tensor:  # noqa: E501
    """The gradient of the logits, from those of the features."""
    if s.map == "gaussian":
        return slope * second - second_slope * phi
    elif s.map == "arccos":
        return tl.where(phi > 0, slope * s.amplitude, 0.0)
    elif s.map == "favor":
        return slope * phi
    else:
        return slope * tl.minimum(phi, 1.0)


@triton.jit
def pull(state: tl.tensor, y: Rows, at: tl.tuple, real: tl.tensor, by: tl.tuple, features: tl.tensor, some: tl.tensor, s: tl.constexpr) -> tl.tensor:  # noqa: E501
    """(by_0 y)·sums + by_1 ones [tokens, features]: what reaches φ along a packed state."""
    pulled = tl.zeros((s.chunk, s.feature_block), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        values = tile_of(y, at, real, columns, s.value, s)
        sums = sums_of(state, features, some, columns, s)
        pulled += tl.dot(values, tl.trans(sums), input_precision=s.precision)
    return pulled * by[0][:, None] + ones_of(state, features, some, s)[None, :] * by[1][:, None]


@triton.jit
def pair_slopes(own: tl.tuple, other: tl.tuple, masses: Weighed, slopes: tl.tuple, at: tl.tuple, reals: tl.tuple, of_keys: tl.constexpr, s: tl.constexpr) -> tl.tensor:  # noqa: E501
    """m_ts U_t·[v_s, 1] of the chunk's pairs, queries in rows; `of_keys`: keys in rows."""
    products = products_of(own, other, at, reals, s)
    inverse, one = number_of(slopes[0], at), number_of(slopes[1], at)
    shares = shares_of(masses, at, s)
    if of_keys:
        return tl.trans(shares) * (products * inverse[None, :] + one[None, :])
    else:
        return shares * (products * inverse[:, None] + one[:, None])


@triton.jit
def grad_vectors(own: Side, other: Side, y_own: Rows, y_other: Rows, matrix: tl.tensor, masses: Weighed, slopes: tl.tuple, weights: tl.tuple, states: tl.tensor, grads: tl.tuple, tokens: tl.tensor, of_keys: tl.constexpr, s: tl.constexpr) -> None:  # noqa: E501, PLR0913, PLR0917
    """The gradient of queries, from keys and their values; or, `of_keys`, of keys, from queries and their grad.

    weights: what of the state's sums reaches a token by its y, by a one, and its own x (FAVOR+: the mass of a key).
    grads: of x, and of W from every chunk or None.
    """
    at = place_of(tokens, s)
    state = state_of(states, at, s)
    real = at.rows < tokens
    real_other = real
    if s.causal:
        real_keys = number_of(masses.written, at, NOTHING) > NOTHING
        if of_keys:
            real, real_other = real_keys, real
        else:
            real_other = real_keys
    elif of_keys:
        real &= number_of(masses.written, at, NOTHING) > NOTHING
    by = (number_of(weights[0], at), number_of(weights[1], at))
    begin = 0
    end = s.features
    width_first = tl.program_id(1) * s.width_block
    if s.map == "elu":
        begin = width_first
        end = width_first + s.width_block
    columns = width_first + tl.arange(0, s.width_block)
    x = tile_of(own.x, at, real, columns, s.width, s)
    if s.unit:
        inverse_length = number_of(own.by, at)
        unit = x * inverse_length[:, None]
    else:
        unit = x
    if s.causal:
        pairs = pair_slopes(y_own, y_other, masses, slopes, at, (real, real_other), of_keys, s)
    grad = tl.zeros((s.chunk, s.width_block), tl.float32)
    along = tl.zeros((s.chunk,), tl.float32)
    for first in range(begin, end, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        some = features < s.features
        phi, second, logits = features_of(own, matrix, at, real, features, s)
        slope = pull(state, y_own, at, real, by, features, some, s)
        second_slope = slope
        if s.map == "gaussian":
            second_slope = pull(state, y_own, at, real, by, features + s.features, some, s)
        if s.causal:
            their, their_second, _ = features_of(other, matrix, at, real_other, features, s)
            slope += tl.dot(pairs, their, input_precision=s.precision)
            if s.map == "gaussian":
                second_slope += tl.dot(pairs, their_second, input_precision=s.precision)
        slope = logit_slope(slope, second_slope, phi, second, s)
        if s.map == "elu":
            grad += slope
        else:
            w = matrix_of(matrix, at, features, columns, s)
            grad += tl.dot(slope, w, input_precision=s.precision)
            along += tl.sum(slope * logits, 1)
            if grads[1] is not None:
                place = grads[1] + (at.chunk * s.features + features)[:, None] * s.width + columns[None, :]
                found = tl.dot(tl.trans(slope), unit, input_precision=s.precision)
                tl.store(place, found, mask=some[:, None] & (columns < s.width)[None, :])
    if s.unit:
        # The length of a vector shorter than `SHORTEST` is not divided out.
        along = tl.where(inverse_length < s.longest, along, 0.0)
        grad = (grad - unit * along[:, None]) * inverse_length[:, None]
    if s.map == "favor" and of_keys:
        grad += x * number_of(weights[2], at)[:, None]
    place = grads[0] + (at.head * tokens + at.rows)[:, None] * s.width + columns[None, :]
    tl.store(place, grad, mask=(at.rows < tokens)[:, None] & (columns < s.width)[None, :])


@triton.jit
def grad_values(k: Side, q: Side, v: Rows, grad: Rows, matrix: tl.tensor, masses: Weighed, slopes: tl.tuple, at_end: tl.tensor, states: tl.tensor, grads: tl.tuple, tokens: tl.tensor, s: tl.constexpr) -> None:  # noqa: E501, PLR0913, PLR0917
    """The gradient of the values, and of the log masses as far as these columns tell it.

    states: the sums of φ(q) ⊗ U after every chunk.  grads: of v, and of the log masses [blocks of columns, B·H, N].
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
