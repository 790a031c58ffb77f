"""The kernels of the forward pass: sums of every chunk, the sums before it, and what queries read."""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import Place, Rows, Side, Weighed
from qkv.kernel.triton.tiles import (
    NOTHING,
    features_of,
    logits_of,
    number_of,
    place_of,
    plain_of,
    read_sums,
    shares_of,
    state_of,
    tile_of,
)


@triton.jit
@no_type_check
def find_peaks(side: Side, matrix: tl.tensor, peaks: tl.tensor, tokens: tl.tensor, s: tl.constexpr) -> None:
    """The largest logit of every vector."""
    at = place_of(tokens, s)
    real = at.rows < tokens
    peak = tl.full((s.chunk,), NOTHING, tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        logits = logits_of(side, matrix, at, real, features, s)
        peak = tl.maximum(peak, tl.max(tl.where((features < s.features)[None, :], logits, NOTHING), 1))
    tl.store(peaks + at.head * tokens + at.rows, peak, mask=real)


@triton.jit
@no_type_check
def sum_chunks(
    side: Side,
    y: Rows,
    matrix: tl.tensor,
    weights: tl.tuple,
    parts: tl.tensor,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """The packed sums of every chunk, of φ(x) and y.

    weights: what a token's y counts with φ, a one with φ, y alone, a one alone, and its square.
    """
    at = place_of(tokens, s)
    by_value, by_one = number_of(weights[0], at), number_of(weights[1], at)
    real = (at.rows < tokens) & (by_value != 0)
    features = tl.program_id(1) * s.feature_block + tl.arange(0, s.feature_block)
    columns = tl.program_id(2) * s.value_block + tl.arange(0, s.value_block)
    part = parts + at.chunk * s.state
    some, wide = features < s.features, columns < s.value
    phi, second, _ = features_of(side, matrix, at, real, features, s)
    values = tile_of(y, at, real, columns, s.value, s)
    ones = part + s.mapped * s.value + features
    sums = part + features[:, None] * s.value + columns[None, :]
    weighed = tl.trans(phi * by_value[:, None])
    tl.store(sums, tl.dot(weighed, values, input_precision=s.precision), mask=some[:, None] & wide[None, :])
    if tl.program_id(2) == 0:
        tl.store(ones, tl.sum(phi * by_one[:, None], 0), mask=some)
    if s.map == "gaussian":
        weighed = tl.trans(second * by_value[:, None])
        found = tl.dot(weighed, values, input_precision=s.precision)
        tl.store(sums + s.features * s.value, found, mask=some[:, None] & wide[None, :])
        if tl.program_id(2) == 0:
            tl.store(ones + s.features, tl.sum(second * by_one[:, None], 0), mask=some)
    if tl.program_id(1) == 0:
        plain = part + s.mapped * (s.value + 1)
        tl.store(plain + columns, tl.sum(values * number_of(weights[2], at)[:, None], 0), mask=wide)
        if tl.program_id(2) == 0:
            tl.store(plain + s.value, tl.sum(number_of(weights[3], at), 0))
            tl.store(plain + s.value + 1, tl.sum(number_of(weights[4], at), 0))


@triton.jit
@no_type_check
def add_along(
    parts: tl.tensor,
    running: tl.tensor,
    kept: tl.tensor,
    chunks: tl.tensor,
    reverse: tl.constexpr,
    block: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """The sums of every chunk -> the sums of those before it (`reverse`: after it); `running` is what comes
    first and becomes the sums of all.  kept: what a chunk leaves of the sums before it; of squares, its
    square.
    """
    head = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    some = place < s.state
    now = tl.load(running + head * s.state + place, mask=some, other=0.0)
    for step in range(0, chunks):
        chunk = head * chunks + (chunks - 1 - step if reverse else step)
        at = parts + chunk * s.state + place
        part = tl.load(at, mask=some, other=0.0)
        tl.store(at, now, mask=some)
        left = tl.load(kept + chunk)
        now = now * tl.where(place == s.state - 1, left * left, left) + part
    tl.store(running + head * s.state + place, now, mask=some)


@triton.jit
@no_type_check
def counts_of(state: tl.tensor, masses: Weighed, at: Place, s: tl.constexpr) -> tl.tuple:
    """Σ m and Σ m² of every query, the chunk's shares and what is left of the state (not causal: 0 and 1)."""
    count = tl.zeros((s.chunk,), tl.float32) + tl.load(state + s.state - 2)
    squares = tl.zeros((s.chunk,), tl.float32) + tl.load(state + s.state - 1)
    if s.causal:
        shares, rest = shares_of(masses, at, s), number_of(masses.rest, at)
        count = count * rest + tl.sum(shares, 1)
        squares = squares * rest * rest + tl.sum(shares * shares, 1)
        return count, squares, shares, rest
    else:
        return count, squares, 0.0, 1.0


@triton.jit
@no_type_check
def gap_of(total: tl.tensor, count: tl.tensor, squares: tl.tensor, floor: tl.tensor) -> tl.tensor:
    """How far a denominator is under the floor; 0 where there are no keys."""
    gap = tl.maximum(floor * tl.sqrt(tl.where(squares > 0, squares, 1.0)) - total, 0.0)
    return tl.where(count > 0, gap, 0.0)


@triton.jit
@no_type_check
def read_queries(  # noqa: PLR0913, PLR0917 -- a kernel takes pointers and tiles, not values
    q: Side,
    k: Side,
    v: Rows,
    matrix: tl.tensor,
    masses: Weighed,
    states: tl.tensor,
    out: tl.tensor,
    noted: tl.tuple,
    floor: tl.tensor,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """out, and its denominator, Σ m and Σ m² of every query."""
    at = place_of(tokens, s)
    state = state_of(states, at, s)
    columns = tl.program_id(1) * s.value_block + tl.arange(0, s.value_block)
    real = at.rows < tokens
    keys = real
    if s.causal:
        keys = number_of(masses.written, at, NOTHING) > NOTHING
    pairs, sums, total = read_sums(q, k, matrix, state, at, (real, keys), columns, s)
    count, squares, shares, rest = counts_of(state, masses, at, s)
    count = tl.where(real, count, 0.0)
    if s.causal:
        pairs *= shares
        values = tile_of(v, at, keys, columns, s.value, s)
        sums = sums * rest[:, None] + tl.dot(pairs, values, input_precision=s.precision)
        total = total * rest + tl.sum(pairs, 1)
    gap = gap_of(total, count, squares, floor)
    if tl.max(gap, 0) > 0:
        plain = tl.zeros((s.chunk, s.value_block), tl.float32) + plain_of(state, columns, s)[None, :]
        if s.causal:
            plain = plain * rest[:, None] + tl.dot(shares, values, input_precision=s.precision)
        sums += plain * (gap / tl.where(count > 0, count, 1.0))[:, None]
    average = sums / tl.where(count > 0, total + gap, 1.0)[:, None]
    number = at.head * tokens + at.rows
    place = out + number[:, None] * s.value + columns[None, :]
    tl.store(place, average, mask=real[:, None] & (columns < s.value)[None, :])
    if tl.program_id(1) == 0:
        tl.store(noted[0] + number, total, mask=real)
        tl.store(noted[1] + number, count, mask=real)
        tl.store(noted[2] + number, squares, mask=real)
