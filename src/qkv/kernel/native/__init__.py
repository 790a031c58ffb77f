"""The native backend: linear attention and additive scores on a CPU, in C++ behind a plain C interface.

It is built where there is a compiler, and computes what `linear`, `sums` and the additive score compute with
torch operators.
"""

import torch
from torch import Tensor

from qkv.kernel.double_backward import BackendInputs, BackendOptions
from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, MapDescription
from qkv.kernel.key_weights import KeyWeights
from qkv.kernel.native import library
from qkv.kernel.native.additive import compute_float32_additive_scores
from qkv.kernel.native.ops import (
    compute_linear_attention_and_query_sums,
    compute_output_and_sums_and_fill_query_sums,
)
from qkv.kernel.sums import OutputAndSums, Sums
from qkv.torch_internals import MISSING, missing_names
from qkv.tracing import can_bypass_dispatcher, find_backend_device, is_transformed

# Positions from which the backend is faster than torch: an empty sequence needs no call.
MIN_POSITIONS = 1


def is_available() -> bool:
    """Whether the library is built for this package and loads."""
    return library.IS_LOADED


def get_unavailable_reason() -> str:
    """Why the library cannot be used, as a clause; empty where it can."""
    return library.UNAVAILABLE


def describe_library() -> dict[str, str | bool]:
    """Describe the library: "built", the "instruction set" that runs here, the "compiler" that built it.

    "reason" says why it cannot be used, or is empty.
    """
    loaded = library.LIBRARY
    if loaded is None:
        return {"built": False, "instruction set": "", "compiler": "", "reason": library.UNAVAILABLE}
    return {
        "built": True,
        "instruction set": loaded.qkv_instruction_set().decode(),
        "compiler": loaded.qkv_compiler().decode(),
        "reason": "",
    }


def explain_why_unsupported(*tensors: Tensor) -> str:
    """Why the backend does not support these tensors, as a clause; empty where it does."""
    if not library.IS_LOADED:
        return library.UNAVAILABLE
    if MISSING:
        return f"it is not used, because {missing_names()}"
    if any(find_backend_device(x) != "cpu" for x in tensors):
        return "it runs on CPUs only"
    if any(x.dtype not in (torch.float32, torch.bfloat16) for x in tensors):
        return "it reads float32 and bfloat16 only"
    if is_transformed():
        return "it has no rules for torch.func and forward-mode derivatives"
    return ""


def compute_additive_scores(
    projected_queries: Tensor, projected_keys: Tensor, score_vector: Tensor
) -> Tensor:
    """Additive scores [B,H,T,S] = v·tanh(q + k), in the dtype of q.

    Args:
        projected_queries: q [B,H,T,A].
        projected_keys: k [B,H,S,A].
        score_vector: v [H,A].
    """
    tensors = (projected_queries, projected_keys, score_vector)
    with torch.autocast("cpu", enabled=False):
        return compute_float32_additive_scores(*(x.float() for x in tensors)).to(projected_queries.dtype)


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
    q, k, v = (x.to(dtype) for x in tensors)
    log_weights, log_decay = (None if x is None else x.float() for x in key_weights or (None, None))
    initial_sums = carry or (None, None, None)
    inputs = BackendInputs(q, k, v, feature_map.matrix, keep, log_weights, log_decay, *initial_sums)
    options = BackendOptions(
        MAP_NUMBERS[feature_map.map],
        feature_map.scales_to_unit_length,
        causal,
        feature_map.squared_length_factor,
        floor,
    )
    if can_bypass_dispatcher(inputs):
        out, feature_sums, plain_sums, log_scale = compute_output_and_sums_and_fill_query_sums(
            inputs, options
        )
    else:
        out, _, feature_sums, plain_sums, log_scale = compute_linear_attention_and_query_sums(
            *inputs, *options
        )
    is_scaled = key_weights is not None or feature_map.map in RESCALING_MAPS
    sums = Sums(feature_sums, plain_sums, log_scale if is_scaled else None)
    return OutputAndSums(out.to(tensors[2].dtype), sums)
