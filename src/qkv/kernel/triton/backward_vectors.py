"""The kernels of the backward pass for queries and keys, which are alike; see `backward`."""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import Place, Rows, Weighed
from qkv.kernel.triton.tiles import (
    NOTHING,
    features_of,
    matrix_of,
    number_of,
    ones_of,
    place_of,
    products_of,
    shares_of,
    state_of,
    sums_of,
    tile_of,
)


@triton.jit
@no_type_check
def logit_slope(
    slope: tl.tensor, second_slope: tl.tensor, phi: tl.tensor, second: tl.tensor, s: tl.constexpr
) -> tl.tensor:
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
@no_type_check
def pull(
    state: tl.tensor,
    y: Rows,
    at: Place,
    real: tl.tensor,
    by: tl.tuple,
    features: tl.tensor,
    some: tl.tensor,
    s: tl.constexpr,
) -> tl.tensor:
    """(by_0 y)·sums + by_1 ones [tokens, features]: what reaches φ along a packed state."""
    pulled = tl.zeros((s.chunk, s.feature_block), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        values = tile_of(y, at, real, columns, s.value, s)
        sums = sums_of(state, features, some, columns, s)
        pulled += tl.dot(values, tl.trans(sums), input_precision=s.precision)
    return pulled * by[0][:, None] + ones_of(state, features, some, s)[None, :] * by[1][:, None]


@triton.jit
@no_type_check
def pair_slopes(
    ys: tl.tuple,
    masses: Weighed,
    slopes: tl.tuple,
    at: Place,
    reals: tl.tuple,
    of_keys: tl.constexpr,
    s: tl.constexpr,
) -> tl.tensor:
    """m_ts U_t·[v_s, 1] of the chunk's pairs, queries in rows; `of_keys`: keys in rows."""
    products = products_of(ys[0], ys[1], at, reals, s)
    inverse, one = number_of(slopes[0], at), number_of(slopes[1], at)
    shares = shares_of(masses, at, s)
    if of_keys:
        return tl.trans(shares) * (products * inverse[None, :] + one[None, :])
    else:
        return shares * (products * inverse[:, None] + one[:, None])


@triton.jit
@no_type_check
def reals_of(masses: Weighed, at: Place, of_keys: tl.constexpr, s: tl.constexpr) -> tl.tuple:
    """Which tokens are real: of the side that gradients are of, and of the other."""
    own = at.rows < at.tokens
    other = own
    if of_keys:
        own = number_of(masses.written, at, NOTHING) > NOTHING
    elif s.causal:
        other = number_of(masses.written, at, NOTHING) > NOTHING
    return own, other


@triton.jit
@no_type_check
def feature_slope(pulled: tl.tensor, pairs: tl.tensor, their: tl.tensor, s: tl.constexpr) -> tl.tensor:
    """The gradient of φ: what reaches it along the sums, and from the other side of the chunk."""
    if s.causal:
        pulled += tl.dot(pairs, their, input_precision=s.precision)
    return pulled


@triton.jit
@no_type_check
def logits_and_slope(  # noqa: PLR0913, PLR0917 -- a kernel takes pointers and tiles, not values
    sides: tl.tuple,
    y: Rows,
    matrix: tl.tensor,
    pairs: tl.tensor,
    by: tl.tuple,
    state: tl.tensor,
    at: Place,
    reals: tl.tuple,
    features: tl.tensor,
    s: tl.constexpr,
) -> tl.tuple:
    """Logits of a block of features, and their gradient."""
    some = features < s.features
    phi, second, logits = features_of(sides[0], matrix, at, reals[0], features, s)
    their, their_second = phi, second
    if s.causal:
        their, their_second, _ = features_of(sides[1], matrix, at, reals[1], features, s)
    slope = feature_slope(pull(state, y, at, reals[0], by, features, some, s), pairs, their, s)
    second_slope = slope
    if s.map == "gaussian":
        pulled = pull(state, y, at, reals[0], by, features + s.features, some, s)
        second_slope = feature_slope(pulled, pairs, their_second, s)
    return logits, logit_slope(slope, second_slope, phi, second, s)


@triton.jit
@no_type_check
def through_length(
    grad: tl.tensor, unit: tl.tensor, along: tl.tensor, inverse: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """The gradient of x from that of x/|x|; the length of a vector that is too short is not divided out."""
    along = tl.where(inverse < s.longest, along, 0.0)
    return (grad - unit * along[:, None]) * inverse[:, None]


@triton.jit
@no_type_check
def grad_elu(  # noqa: PLR0913, PLR0917
    sides: tl.tuple,
    ys: tl.tuple,
    masses: Weighed,
    slopes: tl.tuple,
    weights: tl.tuple,
    states: tl.tensor,
    grad: tl.tensor,
    tokens: tl.tensor,
    of_keys: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """As `grad_vectors`, of the map that has no W: a block of features is one of columns."""
    at = place_of(tokens, s)
    reals = reals_of(masses, at, of_keys, s)
    by = (number_of(weights[0], at), number_of(weights[1], at))
    columns = tl.program_id(1) * s.width_block + tl.arange(0, s.width_block)
    pairs = 0.0
    if s.causal:
        pairs = pair_slopes(ys, masses, slopes, at, reals, of_keys, s)
    _, slope = logits_and_slope(sides, ys[0], None, pairs, by, state_of(states, at, s), at, reals, columns, s)
    place = grad + (at.head * tokens + at.rows)[:, None] * s.width + columns[None, :]
    tl.store(place, slope, mask=(at.rows < tokens)[:, None] & (columns < s.width)[None, :])


@triton.jit
@no_type_check
def grad_vectors(  # noqa: PLR0913, PLR0917
    sides: tl.tuple,
    ys: tl.tuple,
    matrix: tl.tensor,
    masses: Weighed,
    slopes: tl.tuple,
    weights: tl.tuple,
    states: tl.tensor,
    grads: tl.tuple,
    tokens: tl.tensor,
    of_keys: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """The gradient of queries, from keys and their values; or, `of_keys`, of keys, from queries and their
    grad.

    sides, ys: own, other.  weights: what of the state's sums reaches a token by its y and by a one, and what
    its own x adds (FAVOR+: the mass of a key).  grads: of x, and of W from every chunk or None.
    """
    at = place_of(tokens, s)
    state = state_of(states, at, s)
    reals = reals_of(masses, at, of_keys, s)
    by = (number_of(weights[0], at), number_of(weights[1], at))
    columns = tl.program_id(1) * s.width_block + tl.arange(0, s.width_block)
    x = tile_of(sides[0].x, at, reals[0], columns, s.width, s)
    inverse = number_of(sides[0].by, at) if s.unit else by[0]
    unit = x * inverse[:, None] if s.unit else x
    pairs = 0.0
    if s.causal:
        pairs = pair_slopes(ys, masses, slopes, at, reals, of_keys, s)
    grad = tl.zeros((s.chunk, s.width_block), tl.float32)
    along = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        logits, slope = logits_and_slope(sides, ys[0], matrix, pairs, by, state, at, reals, features, s)
        grad += tl.dot(slope, matrix_of(matrix, at, features, columns, s), input_precision=s.precision)
        along += tl.sum(slope * logits, 1)
        if grads[1] is not None:
            place = grads[1] + (at.chunk * s.features + features)[:, None] * s.width + columns[None, :]
            some = (features < s.features)[:, None] & (columns < s.width)[None, :]
            tl.store(place, tl.dot(tl.trans(slope), unit, input_precision=s.precision), mask=some)
    if s.unit:
        grad = through_length(grad, unit, along, inverse, s)
    if s.map == "favor" and of_keys:
        grad += x * number_of(weights[2], at)[:, None]
    place = grads[0] + (at.head * tokens + at.rows)[:, None] * s.width + columns[None, :]
    tl.store(place, grad, mask=(at.rows < tokens)[:, None] & (columns < s.width)[None, :])
