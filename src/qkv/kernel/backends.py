"""Chooses the backend that computes linear attention faster than torch operators.

A backend is a module with `MIN_POSITIONS` (the positions from which it is faster),
`explain_why_unsupported(*tensors)` (a reason why it does not support tensors, or "") and
`compute_linear_attention(...)`.
"""

from types import ModuleType

from torch import Tensor

from qkv.kernel import native, triton
from qkv.tracing import holds_for_all_sizes

# In order of preference.
BACKENDS = (native, triton)


def select_faster_backend_or_none(is_known_map: bool, *tensors: Tensor) -> ModuleType | None:
    """The first backend that supports these tensors [B,H,N,*] and is faster; None for torch operators.

    Args:
        is_known_map: Whether the backends know the feature map.
        tensors: The queries, keys and values of one call.

    Returns:
        The backend, or None.
    """
    for backend in BACKENDS if is_known_map else ():
        if any(
            holds_for_all_sizes(x.shape[2] >= backend.MIN_POSITIONS) for x in tensors
        ) and not backend.explain_why_unsupported(*tensors):
            return backend
    return None


def describe_backends(is_known_map: bool, length: int) -> str:
    """Which backend runs instead of torch operators for which tensors of `length` positions, as a clause.

    Args:
        is_known_map: Whether the backends know the feature map.
        length: The number of queries or keys, whichever is larger.

    Returns:
        A text that begins with a semicolon; "" where no backend runs.
    """
    if not is_known_map:
        return "; no backend knows this feature map"
    text = ""
    if not native.is_available():
        text += f"; the native CPU backend is not used: {native.get_unavailable_reason()}"
    elif length >= native.MIN_POSITIONS:
        text += (
            "; if q, k and v are float32 or bfloat16 on a CPU, the native backend "
            f"({native.describe_library()['instruction set']}) computes the same sums instead"
        )
    if triton.is_available() and length >= triton.MIN_POSITIONS:
        text += "; on a CUDA device, in float32 or half precision, the Triton backend does"
    return text
