"""What a call is to the kernels: where its tensors lie, its sizes, and the blocks it is worked through in."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.score.cosine import SHORTEST

# Tokens of a chunk.  The sums before every chunk are held at once, F·(E+1) + E + 2 numbers of each: at
# F = 2E = 128 as many bytes as q, k, v and out together have in bfloat16.
CHUNK = 64

# Most columns of a tile; wider vectors are taken in several.  A matrix product needs 16.
MOST_FEATURES, MOST_COLUMNS, LEAST = 32, 64, 16

# Numbers of a packed state that one program adds up along the chunks.
STATE_BLOCK = 256

WARPS, STAGES = 4, 1


class Rows(NamedTuple):
    """Vectors [B,H,N,width]: where they lie, and the steps from one batch row, head and token to the next."""

    at: Any
    batch: int
    head: int
    row: int


class Side(NamedTuple):
    """Queries or keys, and one number of each [B,H,N]: 1/length, the largest logit (FAVOR+), or None."""

    x: Rows
    by: Any


class Weighed(NamedTuple):
    """The masses of `shares.Shares` that pairs within a chunk need; decay: None without a gate."""

    written: Any
    decay: Any
    top: Any
    rest: Any


class Place(NamedTuple):
    """What a program works on: the number of its chunk and of its head, and the tokens' positions."""

    chunk: Any
    head: Any
    rows: Any
    tokens: Any


class Sizes(NamedTuple):
    """What is known when a kernel is compiled.

    mapped: F, the components of φ.  state: how many numbers a head's sums are, packed (`state`).  amplitude:
    what features are multiplied by.  longest: 1/length of vectors that are too short to be scaled to length
    1. precision: of products, as Triton names it.
    """

    map: str
    unit: bool
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


def sizes_of(map: str, unit: bool, causal: bool, q: Tensor, v: Tensor, matrix: Tensor | None) -> Sizes:
    """The sizes of a call, and the blocks that they are worked through in."""
    width, value = q.shape[3], v.shape[3]
    features = width if matrix is None else matrix.shape[1]
    mapped = 2 * features if map == "gaussian" else features
    width_block, value_block = block_of(width, MOST_COLUMNS), block_of(value, MOST_COLUMNS)
    return Sizes(
        map=map,
        unit=unit,
        causal=causal,
        heads=q.shape[1],
        width=width,
        value=value,
        features=features,
        mapped=mapped,
        state=mapped * (value + 1) + value + 2,
        amplitude=features**-0.5,
        longest=1 / SHORTEST,
        chunk=CHUNK,
        width_block=width_block,
        value_block=value_block,
        feature_block=width_block if map == "elu" else block_of(features, MOST_FEATURES),
        # The short forms have no more digits than what was read; float32 in three products keeps its own.
        precision="tf32x3" if q.dtype == torch.float32 else "tf32",
    )


def block_of(size: int, most: int) -> int:
    """The power of two that holds `size`, between what a matrix product needs and `most`."""
    return min(max(1 << max(size - 1, 0).bit_length(), LEAST), most)


def blocks(size: int, block: int) -> int:
    """How many blocks hold `size`."""
    return -(-size // block)


def grid_of(s: Sizes, of_tokens: Tensor, *more: int) -> tuple[int, ...]:
    """Programs for the chunks of every head [.., N]."""
    tokens = of_tokens.shape[-1]
    heads = of_tokens.numel() // tokens if tokens else 0
    return (heads * blocks(tokens, s.chunk), *more)


def rows(x: Tensor) -> Rows:
    """x [B,H,N,width], copied only where a vector is not one piece."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return Rows(x, *x.stride()[:3])


def launch(kernel: Any, grid: tuple[int, ...], *given: Any) -> None:
    """Run a kernel on a grid of programs, on the device of what it is given; nothing where there are none."""
    if 0 in grid:
        return
    device = next(x.device for x in given if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*given, num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=True)
