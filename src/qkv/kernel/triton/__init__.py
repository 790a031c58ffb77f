"""The Triton backend: linear attention on a GPU, parallel over heads and over chunks of the sequence.

It computes what `linear` and `sums` compute with torch operators.  Triton is imported by the first call.
"""

import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch
from packaging.version import Version
from torch import Tensor

from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, MapDescription
from qkv.kernel.key_weights import KeyWeights
from qkv.kernel.sums import OutputAndSums, Sums
from qkv.kernel.triton.ops import compute_linear_attention_and_query_sums

# Positions from which the backend is faster than torch: fewer leave more than half of a chunk empty.
MIN_POSITIONS = 64

OLDEST = Version("3.3")  # the first with triton.language.tuple

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_interpreted() -> bool:
    """Whether Triton interprets its kernels, on any device: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def is_installed() -> bool:
    """Whether a Triton that has all that the kernels use is installed; does not import it."""
    return find_spec("triton") is not None and Version(metadata.version("triton")) >= OLDEST


def is_available() -> bool:
    """Whether Triton is installed and a device can run its kernels."""
    return is_installed() and (is_interpreted() or torch.cuda.is_available())


def explain_why_unsupported(*tensors: Tensor) -> str:
    """Why the Triton kernels do not support these tensors, and what runs instead; empty where they do."""
    reason = _explain_unsupported_or_not_installed(*tensors)
    return f"{reason}; torch forms the same sums instead" if reason else ""


def _explain_unsupported_or_not_installed(*tensors: Tensor) -> str:
    if not is_installed():
        return f"Triton {OLDEST} or newer is not installed: pip install triton"
    if any(x.dtype not in DTYPES for x in tensors):
        return "the Triton kernels read float32, bfloat16 and float16 only"
    return "" if is_interpreted() else _explain_unsupported_device(tensors)


def _explain_unsupported_device(tensors: tuple[Tensor, ...]) -> str:
    if any(x.device.type != "cuda" for x in tensors):
        return "the Triton kernels run on CUDA devices only"
    if torch.version.cuda is None or torch.cuda.get_device_capability(tensors[0].device) < (8, 0):
        return "the Triton kernels need an NVIDIA GPU of compute capability 8.0 or later"
    return ""


def compute_linear_attention(
    feature_map: MapDescription,
    tensors: tuple[Tensor, Tensor, Tensor],
    key_weights: KeyWeights | None,
    keep: Tensor | None,
    carry: Sums | None,
    causal: bool,
    floor: float,
) -> OutputAndSums:
    """Linear attention.

    Args:
        feature_map: the description of the feature map.
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
    out, _, feature_sums, plain_sums, log_scale = compute_linear_attention_and_query_sums(
        *(x.to(dtype) for x in tensors),
        feature_map.matrix,
        keep,
        *(key_weights or (None, None)),
        *(carry or (None, None, None)),
        MAP_NUMBERS[feature_map.map],
        feature_map.scales_to_unit_length,
        causal,
        feature_map.squared_length_factor,
        floor,
    )
    is_scaled = key_weights is not None or feature_map.map in RESCALING_MAPS
    sums = Sums(feature_sums, plain_sums, log_scale if is_scaled else None)
    return OutputAndSums(out.to(v.dtype), sums)
