"""What the kernels have in common: tiles of vectors, their features, the sums, and the masses within a chunk.

A tile is a chunk of tokens times a block of columns.  `s` is a `call.Sizes`, known when a kernel is compiled.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import Place, Rows, Side, Weighed

NOTHING = tl.constexpr(float("-inf"))


@triton.jit
@no_type_check
def place_of(tokens: tl.tensor, s: tl.constexpr) -> Place:
    """What this program works on."""
    chunk = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(tokens, s.chunk)
    rows = (chunk % chunks) * s.chunk + tl.arange(0, s.chunk)
    return Place(chunk, chunk // chunks, rows, tokens)


@triton.jit
@no_type_check
def number_of(array: tl.tensor, at: Place, nothing: tl.constexpr = 0.0) -> tl.tensor:
    """One number of every token of the chunk, from array [B·H,N]."""
    return tl.load(array + at.head * at.tokens + at.rows, mask=at.rows < at.tokens, other=nothing)


@triton.jit
@no_type_check
def tile_of(
    x: Rows, at: Place, real: tl.tensor, columns: tl.tensor, width: tl.constexpr, s: tl.constexpr
) -> tl.tensor:
    """Columns of the chunk's vectors as float32; 0 where one is not real, which is never read."""
    begin = x.at + (at.head // s.heads) * x.batch + (at.head % s.heads) * x.head
    some = real[:, None] & (columns < width)[None, :]
    return tl.load(begin + at.rows[:, None] * x.row + columns[None, :], mask=some, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def matrix_of(
    matrix: tl.tensor, at: Place, features: tl.tensor, columns: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """W [features, columns] of the head."""
    begin = matrix + (at.head % s.heads) * (s.features * s.width)
    some = (features < s.features)[:, None] & (columns < s.width)[None, :]
    return tl.load(begin + features[:, None] * s.width + columns[None, :], mask=some, other=0.0)


@triton.jit
@no_type_check
def logits_of(
    side: Side, matrix: tl.tensor, at: Place, real: tl.tensor, features: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """W x of the chunk, [tokens, features], of vectors of length 1 where `s.unit`."""
    logits = tl.zeros((s.chunk, s.feature_block), tl.float32)
    for first in range(0, s.width, s.width_block):
        columns = first + tl.arange(0, s.width_block)
        x = tile_of(side.x, at, real, columns, s.width, s)
        w = matrix_of(matrix, at, features, columns, s)
        logits += tl.dot(x, tl.trans(w), input_precision=s.precision)
    if s.unit:
        logits *= number_of(side.by, at)[:, None]
    return logits


@triton.jit
@no_type_check
def features_of(
    side: Side, matrix: tl.tensor, at: Place, real: tl.tensor, features: tl.tensor, s: tl.constexpr
) -> tl.tuple:
    """φ [tokens, features], its second half where it has one, and the logits W x (of Elu, x itself)."""
    some = real[:, None] & (features < s.features)[None, :]
    if s.map == "elu":
        logits = tile_of(side.x, at, real, features, s.width, s)
        phi = tl.exp(tl.minimum(logits, 0.0)) + tl.maximum(logits, 0.0)
    else:
        logits = logits_of(side, matrix, at, real, features, s)
        if s.map == "gaussian":
            phi = tl.sin(logits) * s.amplitude
        elif s.map == "arccos":
            phi = tl.maximum(logits, 0.0) * s.amplitude
        else:
            phi = tl.exp(tl.minimum(logits - number_of(side.by, at)[:, None], 0.0)) * s.amplitude
    second = phi
    if s.map == "gaussian":
        second = tl.where(some, tl.cos(logits) * s.amplitude, 0.0)
    return tl.where(some, phi, 0.0), second, logits


@triton.jit
@no_type_check
def sums_of(
    state: tl.tensor, features: tl.tensor, some: tl.tensor, columns: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """Σ m φ ⊗ v [features, columns] of a packed state."""
    mask = some[:, None] & (columns < s.value)[None, :]
    return tl.load(state + features[:, None] * s.value + columns[None, :], mask=mask, other=0.0)


@triton.jit
@no_type_check
def ones_of(state: tl.tensor, features: tl.tensor, some: tl.tensor, s: tl.constexpr) -> tl.tensor:
    """Σ m φ [features] of a packed state."""
    return tl.load(state + s.mapped * s.value + features, mask=some, other=0.0)


@triton.jit
@no_type_check
def plain_of(state: tl.tensor, columns: tl.tensor, s: tl.constexpr) -> tl.tensor:
    """Σ m v [columns] of a packed state."""
    return tl.load(state + s.mapped * (s.value + 1) + columns, mask=columns < s.value, other=0.0)


@triton.jit
@no_type_check
def state_of(states: tl.tensor, at: Place, s: tl.constexpr) -> tl.tensor:
    """Where the sums lie that this chunk reads: those of the chunks beside it, or of all."""
    if s.causal:
        return states + at.chunk * s.state
    return states + at.head * s.state


@triton.jit
@no_type_check
def shares_of(masses: Weighed, at: Place, s: tl.constexpr) -> tl.tensor:
    """The masses [queries, keys] of the chunk, divided by what those of a query are divided by.

    Every Σ log g runs over just the gates between key and query, as in `masses.at_queries`.
    """
    logs = number_of(masses.written, at, NOTHING)[None, :]
    top = number_of(masses.top, at)
    keys, queries = tl.arange(0, s.chunk)[None, :], tl.arange(0, s.chunk)[:, None]
    if masses.decay is not None:
        decay = number_of(masses.decay, at)[:, None]
        logs += tl.cumsum(tl.where(keys < queries, decay, 0.0), 0)
    logs = tl.where(keys <= queries, logs - tl.where(top == NOTHING, 0.0, top)[:, None], NOTHING)
    return tl.exp(logs)


@triton.jit
@no_type_check
def products_of(x: Rows, y: Rows, at: Place, reals: tl.tuple, s: tl.constexpr) -> tl.tensor:
    """x_i·y_j of values [i, j] of the chunk."""
    products = tl.zeros((s.chunk, s.chunk), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        x_tile = tile_of(x, at, reals[0], columns, s.value, s)
        y_tile = tile_of(y, at, reals[1], columns, s.value, s)
        products += tl.dot(x_tile, tl.trans(y_tile), input_precision=s.precision)
    return products


@triton.jit
@no_type_check
def read_sums(
    own: Side,
    other: Side,
    matrix: tl.tensor,
    state: tl.tensor,
    at: Place,
    reals: tl.tuple,
    columns: tl.tensor,
    s: tl.constexpr,
) -> tl.tuple:
    """φ·φ' [own, others of the chunk], zeros unless causal; and what φ reads from a state: [own, columns] of
    its sums, and of its ones.
    """
    pairs = tl.zeros((s.chunk, s.chunk), tl.float32)
    read = tl.zeros((s.chunk, s.value_block), tl.float32)
    total = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        some = features < s.features
        phi, second, _ = features_of(own, matrix, at, reals[0], features, s)
        read += tl.dot(phi, sums_of(state, features, some, columns, s), input_precision=s.precision)
        total += tl.sum(phi * ones_of(state, features, some, s)[None, :], 1)
        if s.map == "gaussian":
            turned = features + s.features
            read += tl.dot(second, sums_of(state, turned, some, columns, s), input_precision=s.precision)
            total += tl.sum(second * ones_of(state, turned, some, s)[None, :], 1)
        if s.causal:
            their, their_second, _ = features_of(other, matrix, at, reals[1], features, s)
            pairs += tl.dot(phi, tl.trans(their), input_precision=s.precision)
            if s.map == "gaussian":
                pairs += tl.dot(second, tl.trans(their_second), input_precision=s.precision)
    return pairs, read, total
