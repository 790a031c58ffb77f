"""Autocast for tensors on the meta device, which torch's own does not know."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

HALF_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}

# What torch.autocast computes in half precision on a CPU, and the functions of Python that call it.  Fused
# attention is not among them: the library computes it in single precision there.
HALF_FUNCTIONS = frozenset(
    [
        *(F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d),
        *(torch.conv1d, torch.conv2d, torch.conv3d, torch.einsum, torch.lstm, torch.gru),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.addbmm, torch.baddbmm),
        *(Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.addbmm, Tensor.baddbmm),
        *(Tensor.__matmul__, Tensor.__rmatmul__),
    ]
)
WIDEST_FUNCTIONS = frozenset([torch.cat, torch.concat, torch.stack])
SINGLE_FUNCTIONS = frozenset([F.nll_loss, F.mse_loss, F.binary_cross_entropy])


class Autocast(TorchFunctionMode):
    """Casts the inputs of functions on the meta device as `torch.autocast` casts them on a CPU.

    Args:
        dtype: the number format of matrix products; None changes nothing.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if self.dtype is not None:
            dtype = self._choose_dtype(func, args)
            if dtype is not None:
                args = tree_map(lambda x: self._cast(x, dtype), args)
                kwargs = {key: self._cast(value, dtype) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _choose_dtype(self, func: Any, args: tuple[Any, ...]) -> torch.dtype | None:
        if func in HALF_FUNCTIONS:
            return self.dtype
        if func in SINGLE_FUNCTIONS:
            return torch.float32
        if func in WIDEST_FUNCTIONS:
            types = {x.dtype for x in args[0] if _is_floating(x)}
            return torch.float32 if len(types) > 1 else None
        return None

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not _is_floating(x) or x.dtype == dtype:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(dtype)
        if id(x) not in self._weights:  # a weight is cast once; held too, because ids of freed tensors recur
            self._weights[id(x)] = (x, x.to(dtype))
        return self._weights[id(x)][1]


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
