"""The Triton backend: linear attention on a GPU, parallel over heads and over chunks of the sequence.

It computes what `linear` and `sums` compute with torch operators.  Triton is imported by the first call.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, Kind
from qkv.kernel.key_weights import KeyWeights
from qkv.kernel.sums import OutputAndSums, Sums
from qkv.kernel.triton.ops import linear_attention

# Positions from which the backend is faster than torch: fewer leave more than half of a chunk empty.
MIN_POSITIONS = 64

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_interpreted() -> bool:
    """Whether Triton interprets its kernels, on any device: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def is_installed() -> bool:
    """Whether Triton is installed; does not import it."""
    return find_spec("triton") is not None


def is_available() -> bool:
    """Whether Triton is installed and a device can run its kernels."""
    return is_installed() and (is_interpreted() or torch.cuda.is_available())


def explain_unsupported(*tensors: Tensor) -> str:
    """Why the Triton kernels do not support these tensors, and what runs instead; empty where they do."""
    reason = _find_obstacle(*tensors)
    return f"{reason}; torch forms the same sums instead" if reason else ""


def _find_obstacle(*tensors: Tensor) -> str:
    if not is_installed():
        return "Triton is not installed: pip install triton"
    if any(x.dtype not in DTYPES for x in tensors):
        return "the Triton kernels read float32, bfloat16 and float16 only"
    return "" if is_interpreted() else _find_device_obstacle(tensors)


def _find_device_obstacle(tensors: tuple[Tensor, ...]) -> str:
    if any(x.device.type != "cuda" for x in tensors):
        return "the Triton kernels run on CUDA devices only"
    if torch.version.cuda is None or torch.cuda.get_device_capability(tensors[0].device) < (8, 0):
        return "the Triton kernels need an NVIDIA GPU of compute capability 8.0 or later"
    return ""


def compute_linear_attention(
    kind: Kind,
    tensors: tuple[Tensor, Tensor, Tensor],
    key_weights: KeyWeights | None,
    keep: Tensor | None,
    carry: Sums | None,
    causal: bool,
    floor: float,
) -> OutputAndSums:
    """Linear attention.

    Args:
        kind: the feature map.
        tensors: q [B,H,T,D], k [B,H,S,D] and v [B,H,S,E], all with H heads.
        key_weights: those of the keys; None where every real key has weight 1.
        keep: [B,S], True for real keys; None where all are real.
        carry: the sums over earlier keys; None where there are none.
        causal: whether query t sees the earlier keys and keys 0 … t; otherwise it sees all keys.
        floor: the smallest denominator; see `sums`.

    Returns:
        out [B,H,T,E] in the dtype of v, and the sums after the last key.
    """
    q, k, v = tensors
    dtype = q.dtype if q.dtype == k.dtype == v.dtype else torch.float32
    out, _, feature_sums, plain_sums, log_scale = linear_attention(
        *(x.to(dtype) for x in tensors),
        kind.matrix,
        keep,
        *(key_weights or (None, None)),
        *(carry or (None, None, None)),
        MAP_NUMBERS[kind.map],
        kind.unit,
        causal,
        kind.square,
        floor,
    )
    is_scaled = key_weights is not None or kind.map in RESCALING_MAPS
    sums = Sums(feature_sums, plain_sums, log_scale if is_scaled else None)
    return OutputAndSums(out.to(v.dtype), sums)
