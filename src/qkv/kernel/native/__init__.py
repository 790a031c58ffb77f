"""The native engine of linear attention and of additive scores on a CPU: C++ behind a plain C interface,
built where there is a compiler.  It computes what `linear`, `sums` and the additive score compute with torch.
"""

import torch
from torch import Tensor

from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, Kind
from qkv.kernel.key_weights import KeyWeights
from qkv.kernel.native import library
from qkv.kernel.native.additive import additive_score
from qkv.kernel.native.ops import Inputs, compute, linear_attention
from qkv.kernel.sums import Sums
from qkv.torch_internals import MISSING, missing_names
from qkv.tracing import can_bypass_dispatcher, is_transformed

# There is nothing in an empty sequence to call it for.
FEWEST = 1


def available() -> bool:
    """Whether the native engine is built and loads."""
    return library.BUILT


def about() -> dict[str, str | bool]:
    """Whether it is built, which instruction set runs here and what compiled it."""
    built = library.LIBRARY
    if built is None:
        return {"built": False, "instruction set": "", "compiler": ""}
    return {
        "built": True,
        "instruction set": built.qkv_instruction_set().decode(),
        "compiler": built.qkv_compiler().decode(),
    }


def why_not(*tensors: Tensor) -> str:
    """Why the native engine cannot take these tensors; empty where it can."""
    if not library.BUILT:
        return "it is not built here"
    if MISSING:
        return f"it is not used, because {missing_names()}"
    if any(x.device.type != "cpu" for x in tensors):
        return "it runs on CPUs only"
    if any(x.dtype not in (torch.float32, torch.bfloat16) for x in tensors):
        return "it reads float32 and bfloat16 only"
    if is_transformed():
        return "it has no rules for torch.func and forward-mode derivatives"
    return ""


def additive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores [B,H,T,S] = v·tanh(q + k) in the type of q; projected q [B,H,T,A], k [B,H,S,A], and v [H,A]."""
    with torch.autocast("cpu", enabled=False):
        return additive_score(q.float(), k.float(), v.float()).to(q.dtype)


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
    written, decay = (None if x is None else x.float() for x in masses or (None, None))
    given_sums = before or (None, None, None)
    inputs: Inputs = (*(x.to(shared) for x in tensors), kind.matrix, keep, written, decay, *given_sums)
    numbers = (MAP_NUMBERS[kind.map], kind.unit, causal, kind.square, floor)
    if can_bypass_dispatcher(inputs):
        out, sums, plain, scale = compute(inputs, numbers)
    else:
        out, _, sums, plain, scale = linear_attention(*inputs, *numbers)
    weighed = masses is not None or kind.map in RESCALING_MAPS
    return out.to(v.dtype), Sums(sums, plain, scale if weighed else None)
