"""What the kernels share: tiles of vectors and of features, the sums of a state, and weights within a chunk.

A tile is a chunk of tokens times a block of columns.  `s` is a `call.Sizes`, known when a kernel is compiled.
In comments, C are the tokens of a chunk, R the features of a block, D and E the columns of a block.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import PairWeights, Position, StridedTensor, Vectors

LOG_ZERO = tl.constexpr(float("-inf"))


@triton.jit
@no_type_check
def locate_chunk(tokens: tl.tensor, s: tl.constexpr) -> Position:
    """The chunk that this program works on."""
    chunk = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(tokens, s.chunk)
    rows = (chunk % chunks) * s.chunk + tl.arange(0, s.chunk)
    return Position(chunk, chunk // chunks, rows, tokens)


@triton.jit
@no_type_check
def load_token_scalars(array: tl.tensor, at: Position, padding: tl.constexpr = 0.0) -> tl.tensor:
    """One number for every token of the chunk, from array [B·H,N]."""
    return tl.load(array + at.head * at.tokens + at.rows, mask=at.rows < at.tokens, other=padding)


@triton.jit
@no_type_check
def load_tile(
    x: StridedTensor,
    at: Position,
    is_real: tl.tensor,
    columns: tl.tensor,
    width: tl.constexpr,
    s: tl.constexpr,
) -> tl.tensor:
    """Columns of the chunk's vectors as float32; 0 for tokens that are not real, which are never read."""
    begin = x.data + (at.head // s.heads) * x.batch_stride + (at.head % s.heads) * x.head_stride
    mask = is_real[:, None] & (columns < width)[None, :]
    pointers = begin + at.rows[:, None] * x.token_stride + columns[None, :]
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def load_projection(
    matrix: tl.tensor, at: Position, features: tl.tensor, columns: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """W [features, columns] of the head."""
    begin = matrix + (at.head % s.heads) * (s.features * s.width)
    mask = (features < s.features)[:, None] & (columns < s.width)[None, :]
    return tl.load(begin + features[:, None] * s.width + columns[None, :], mask=mask, other=0.0)


@triton.jit
@no_type_check
def compute_logits(
    vectors: Vectors,
    matrix: tl.tensor,
    at: Position,
    is_real: tl.tensor,
    features: tl.tensor,
    s: tl.constexpr,
) -> tl.tensor:
    """W x [tokens, features] of the chunk, where `s.unit` of vectors of length 1."""
    logits = tl.zeros((s.chunk, s.feature_block), tl.float32)
    for first in range(0, s.width, s.width_block):
        columns = first + tl.arange(0, s.width_block)
        x = load_tile(vectors.x, at, is_real, columns, s.width, s)
        w = load_projection(matrix, at, features, columns, s)
        # [C, D] @ [D, R]
        logits += tl.dot(x, tl.trans(w), input_precision=s.precision)
    if s.unit:
        logits *= load_token_scalars(vectors.scalars, at)[:, None]
    return logits


@triton.jit
@no_type_check
def compute_features_and_logits(
    vectors: Vectors,
    matrix: tl.tensor,
    at: Position,
    is_real: tl.tensor,
    features: tl.tensor,
    s: tl.constexpr,
) -> tl.tuple:
    """φ [tokens, features], its second half if it has one (cosines), and the logits W x (Elu: x itself)."""
    mask = is_real[:, None] & (features < s.features)[None, :]
    if s.map == "elu":
        logits = load_tile(vectors.x, at, is_real, features, s.width, s)
        phi = tl.exp(tl.minimum(logits, 0.0)) + tl.maximum(logits, 0.0)
    else:
        logits = compute_logits(vectors, matrix, at, is_real, features, s)
        if s.map == "gaussian":
            phi = tl.sin(logits) * s.amplitude
        elif s.map == "arccos":
            phi = tl.maximum(logits, 0.0) * s.amplitude
        else:
            phi = (
                tl.exp(tl.minimum(logits - load_token_scalars(vectors.scalars, at)[:, None], 0.0))
                * s.amplitude
            )
    second = phi
    if s.map == "gaussian":
        second = tl.where(mask, tl.cos(logits) * s.amplitude, 0.0)
    return tl.where(mask, phi, 0.0), second, logits


@triton.jit
@no_type_check
def load_feature_sums(
    state: tl.tensor, features: tl.tensor, is_feature: tl.tensor, columns: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """Σ m φ ⊗ v [features, columns] of a packed state."""
    mask = is_feature[:, None] & (columns < s.value)[None, :]
    return tl.load(state + features[:, None] * s.value + columns[None, :], mask=mask, other=0.0)


@triton.jit
@no_type_check
def load_denominator_sums(
    state: tl.tensor, features: tl.tensor, is_feature: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """Σ m φ [features] of a packed state."""
    return tl.load(state + s.mapped * s.value + features, mask=is_feature, other=0.0)


@triton.jit
@no_type_check
def load_plain_value_sums(state: tl.tensor, columns: tl.tensor, s: tl.constexpr) -> tl.tensor:
    """Σ m v [columns] of a packed state."""
    return tl.load(state + s.mapped * (s.value + 1) + columns, mask=columns < s.value, other=0.0)


@triton.jit
@no_type_check
def locate_state(states: tl.tensor, at: Position, s: tl.constexpr) -> tl.tensor:
    """The packed state that this chunk reads: its own if causal, otherwise the one of its head."""
    if s.causal:
        return states + at.chunk * s.state
    return states + at.head * s.state


@triton.jit
@no_type_check
def compute_pair_weights(weights: PairWeights, at: Position, s: tl.constexpr) -> tl.tensor:
    """The weights [queries, keys] of the chunk's pairs, relative to the largest that each query has seen.

    Every Σ log g runs over exactly the gates between key and query, as in
    `key_weights.compute_causal_log_weights_at_queries`.
    """
    logs = load_token_scalars(weights.log_weights, at, LOG_ZERO)[None, :]
    maximum = load_token_scalars(weights.max_log_weights, at)
    keys, queries = tl.arange(0, s.chunk)[None, :], tl.arange(0, s.chunk)[:, None]
    if weights.log_decay is not None:
        log_decay = load_token_scalars(weights.log_decay, at)[:, None]
        logs += tl.cumsum(tl.where(keys < queries, log_decay, 0.0), 0)
    shift = tl.where(maximum == LOG_ZERO, 0.0, maximum)[:, None]
    logs = tl.where(keys <= queries, logs - shift, LOG_ZERO)
    return tl.exp(logs)


@triton.jit
@no_type_check
def compute_pairwise_dot_products(
    x: StridedTensor, y: StridedTensor, at: Position, are_real: tl.tuple, s: tl.constexpr
) -> tl.tensor:
    """x_i·y_j [i, j] of vectors of the width of values, for the tokens of the chunk."""
    products = tl.zeros((s.chunk, s.chunk), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        x_tile = load_tile(x, at, are_real[0], columns, s.value, s)
        y_tile = load_tile(y, at, are_real[1], columns, s.value, s)
        # [C, E] @ [E, C]
        products += tl.dot(x_tile, tl.trans(y_tile), input_precision=s.precision)
    return products


@triton.jit
@no_type_check
def multiply_features_with_features_and_state(
    own_vectors: Vectors,
    other_vectors: Vectors,
    matrix: tl.tensor,
    state: tl.tensor,
    at: Position,
    are_real: tl.tuple,
    columns: tl.tensor,
    s: tl.constexpr,
) -> tl.tuple:
    """The products of the features of a chunk, with φ of `own_vectors` and φ' of `other_vectors`.

    Intra-chunk φ·φ' [own, other], zeros unless causal; inter-chunk φ·(feature sums) [own, columns] and
    φ·(denominator sums) [own] of a packed state.
    """
    intra = tl.zeros((s.chunk, s.chunk), tl.float32)
    inter = tl.zeros((s.chunk, s.value_block), tl.float32)
    denominators = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        is_feature = features < s.features
        phi, second, _ = compute_features_and_logits(own_vectors, matrix, at, are_real[0], features, s)
        sums = load_feature_sums(state, features, is_feature, columns, s)
        # [C, R] @ [R, E]
        inter += tl.dot(phi, sums, input_precision=s.precision)
        denominators += tl.sum(phi * load_denominator_sums(state, features, is_feature, s)[None, :], 1)
        if s.map == "gaussian":
            cosines = features + s.features
            sums = load_feature_sums(state, cosines, is_feature, columns, s)
            # [C, R] @ [R, E]
            inter += tl.dot(second, sums, input_precision=s.precision)
            denominators += tl.sum(second * load_denominator_sums(state, cosines, is_feature, s)[None, :], 1)
        if s.causal:
            other_phi, other_second, _ = compute_features_and_logits(
                other_vectors, matrix, at, are_real[1], features, s
            )
            # [C, R] @ [R, C]
            intra += tl.dot(phi, tl.trans(other_phi), input_precision=s.precision)
            if s.map == "gaussian":
                # [C, R] @ [R, C]
                intra += tl.dot(second, tl.trans(other_second), input_precision=s.precision)
    return intra, inter, denominators
