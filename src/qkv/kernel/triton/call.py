"""How a call is described to the kernels: its tensors, its sizes, and the blocks of the work."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.kernel.feature_map import RESCALING_MAPS
from qkv.score.cosine import MIN_VECTOR_LENGTH

# Tokens of a chunk.  The prefix sums before all chunks are stored at once, F·(E+1) + E + 2 numbers for each:
# at F = 2E = 128 as many bytes as q, k, v and out together take in bfloat16.
CHUNK = 64

# The most features and columns of a tile; wider vectors take several tiles.  A matrix product needs 16.
MAX_TILE_FEATURES, MAX_TILE_COLUMNS, MIN_TILE = 32, 64, 16

# Numbers of a packed state that one program scans over the chunks.
STATE_BLOCK = 256

WARPS, STAGES = 4, 1


class StridedTensor(NamedTuple):
    """Vectors [B,H,N,width] in memory.

    Args:
        data: the tensor; in a kernel, the pointer to its first number.
        batch_stride: numbers from one batch row to the next.
        head_stride: numbers from one head to the next.
        token_stride: numbers from one token to the next.
    """

    data: Any
    batch_stride: int
    head_stride: int
    token_stride: int


class Vectors(NamedTuple):
    """Queries or keys.

    Args:
        x: the vectors.
        scalars: one number of each [B,H,N]: 1/length if vectors are scaled to length 1, the largest logit if
            the map rescales keys; otherwise None.
    """

    x: StridedTensor
    scalars: Any


class PairWeights(NamedTuple):
    """What the weights of pairs within a chunk are computed from, each [B·H,N]; see `relative_weights`.

    Args:
        log_weights: of the keys; -inf for padding.
        log_decay: of the keys; None without a gate.
        max_log_weights: of the queries.
        carry_factors: of the queries.
    """

    log_weights: Any
    log_decay: Any
    max_log_weights: Any
    carry_factors: Any


class Position(NamedTuple):
    """What a program works on.

    Args:
        chunk: the number of its chunk among those of all heads.
        head: the number of its head among those of all batch rows.
        rows: the positions of its tokens.
        tokens: N, the number of tokens of a head.
    """

    chunk: Any
    head: Any
    rows: Any
    tokens: Any


class Sizes(NamedTuple):
    """What is known when a kernel is compiled.

    Args:
        map: the name of the feature map.
        unit: whether vectors are scaled to length 1.
        rescales_keys: whether features are divided by their maximum per vector, whose log is added to the log
            weight of a key.
        causal: whether query t sees keys 0 … t only.
        heads: H.
        width: D, of queries and keys.
        value: E, the width of the values.
        features: R, the rows of the projection; D for a map without.
        mapped: F, the components of φ.
        state: how many numbers the sums of a head are, packed as in `state`.
        amplitude: the factor of all features.
        longest: 1/length of vectors that are too short to be scaled to length 1.
        chunk: tokens of a chunk.
        width_block: columns of queries and keys in a tile.
        value_block: columns of values in a tile.
        feature_block: features in a tile.
        precision: of products, as Triton names it.
    """

    map: str
    unit: bool
    rescales_keys: bool
    causal: bool
    heads: int
    width: int
    value: int
    features: int
    mapped: int
    state: int
    amplitude: float
    longest: float
    chunk: int
    width_block: int
    value_block: int
    feature_block: int
    precision: str


def choose_tensor_and_block_sizes(
    map_name: str, scales_to_unit_length: bool, causal: bool, q: Tensor, v: Tensor, matrix: Tensor | None
) -> Sizes:
    """The sizes of a call, and the blocks of the work.

    Args:
        map_name: the name of the feature map.
        scales_to_unit_length: whether vectors are scaled to length 1.
        causal: whether query t sees keys 0 … t only.
        q: [B,H,T,D].
        v: [B,H,S,E].
        matrix: [H,R,D], the projection; None for a map without.
    """
    width, value = q.shape[3], v.shape[3]
    features = width if matrix is None else matrix.shape[1]
    mapped = 2 * features if map_name == "gaussian" else features
    width_block, value_block = (
        round_up_to_block_size(width, MAX_TILE_COLUMNS),
        round_up_to_block_size(value, MAX_TILE_COLUMNS),
    )
    return Sizes(
        map=map_name,
        unit=scales_to_unit_length,
        rescales_keys=map_name in RESCALING_MAPS,
        causal=causal,
        heads=q.shape[1],
        width=width,
        value=value,
        features=features,
        mapped=mapped,
        state=mapped * (value + 1) + value + 2,
        amplitude=features**-0.5,
        longest=1 / MIN_VECTOR_LENGTH,
        chunk=CHUNK,
        width_block=width_block,
        value_block=value_block,
        feature_block=width_block
        if map_name == "elu"
        else round_up_to_block_size(features, MAX_TILE_FEATURES),
        # Half-precision inputs have no more digits than tf32; float32 keeps its own in three products.
        precision="tf32x3" if q.dtype == torch.float32 else "tf32",
    )


def round_up_to_block_size(size: int, maximum: int) -> int:
    """The power of two that holds `size`, between what a matrix product needs and `maximum`."""
    return min(max(1 << max(size - 1, 0).bit_length(), MIN_TILE), maximum)


def count_blocks(size: int, block: int) -> int:
    """How many blocks hold `size`."""
    return -(-size // block)


def compute_grid_of_chunks(s: Sizes, token_scalars: Tensor, *other_sizes: int) -> tuple[int, ...]:
    """One program for every chunk of every head.

    Args:
        s: the sizes.
        token_scalars: any tensor [.., N] with one number for every token of every head.
        *other_sizes: further dimensions of the grid.
    """
    tokens = token_scalars.shape[-1]
    heads = token_scalars.numel() // tokens if tokens else 0
    return (heads * count_blocks(tokens, s.chunk), *other_sizes)


def make_strided(x: Tensor) -> StridedTensor:
    """Describe x [B,H,N,width]; it is copied only if its vectors are not contiguous."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return StridedTensor(x, *x.stride()[:3])


def launch_kernel(kernel: Any, grid: tuple[int, ...], *arguments: Any) -> None:
    """Run a kernel on the device of its arguments; nothing for an empty grid.

    Args:
        kernel: a function compiled by Triton.
        grid: the number of programs in each dimension.
        *arguments: of the kernel; the first tensor among them says which device.
    """
    if 0 in grid:
        return
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=True)
