"""The linear evaluator on a GPU: Triton kernels, parallel over heads and along the sequence.  They compute
what `linear` and `sums` compute with torch.  Triton is imported when a call first runs.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from qkv.kernel.feature_map import MAP_NUMBERS, Kind
from qkv.kernel.key_weights import KeyWeights
from qkv.kernel.sums import Sums
from qkv.kernel.triton.ops import linear_attention

# Fewer positions leave more than half of a chunk's tile empty.
FEWEST = 64

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether Triton was asked to interpret kernels, on whatever device: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def installed() -> bool:
    """Whether Triton is there, without importing it."""
    return find_spec("triton") is not None


def available() -> bool:
    """Whether Triton is installed and there is a device that its kernels run on."""
    return installed() and (interpreted() or torch.cuda.is_available())


def why_not(*tensors: Tensor) -> str:
    """Why the Triton kernels cannot take these tensors, and what runs instead; empty where they can."""
    reason = _why_not(*tensors)
    return f"{reason}; torch forms the same sums instead" if reason else ""


def _why_not(*tensors: Tensor) -> str:
    if not installed():
        return "Triton is not installed: pip install triton"
    if any(x.dtype not in TYPES for x in tensors):
        return "the Triton kernels read float32, bfloat16 and float16 only"
    return "" if interpreted() else _why_not_on(tensors)


def _why_not_on(tensors: tuple[Tensor, ...]) -> str:
    if any(x.device.type != "cuda" for x in tensors):
        return "the Triton kernels run on CUDA devices only"
    if torch.version.cuda is None or torch.cuda.get_device_capability(tensors[0].device) < (8, 0):
        return "the Triton kernels need an NVIDIA GPU of compute capability 8.0 or later"
    return ""


def attend(
    kind: Kind,
    tensors: tuple[Tensor, Tensor, Tensor],
    given: tuple[KeyWeights | None, Tensor | None],
    before: Sums | None,
    causal: bool,
    floor: float,
) -> tuple[Tensor, Sums]:
    """out [B,H,T,E] in the type of v, and the sums after the last key.

    tensors: q, k, v, all with H heads.  given: the keys' masses and keep [B,S].  before:
    the sums that the keys follow.  causal: query t sees `before` and keys 0 … t, otherwise all.
    """
    q, k, v = tensors
    shared = q.dtype if q.dtype == k.dtype == v.dtype else torch.float32
    masses, keep = given
    written, decay = masses or (None, None)
    out, _, sums, plain, scale = linear_attention(
        *(x.to(shared) for x in (q, k, v)),
        kind.matrix,
        keep,
        written,
        decay,
        *(before or (None, None, None)),
        MAP_NUMBERS[kind.map],
        kind.unit,
        causal,
        kind.square,
        floor,
    )
    weighed = masses is not None or kind.map == "favor"
    return out.to(v.dtype), Sums(sums, plain, scale if weighed else None)
