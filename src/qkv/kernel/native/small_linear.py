"""Linear layers applied to few rows, as in decoding, where a general matrix product mostly prepares."""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.kernel.native import library
from qkv.kernel.native.library import fill_structure_and_call_library, make_contiguous
from qkv.torch_internals import call_runs_only_forward
from qkv.tracing import can_bypass_dispatcher

# With fewer rows torch's product of a matrix and a vector is as fast; with more, its product of two matrices.
MIN_ROWS, MAX_ROWS = 3, 32


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), computed by the native engine if x has few rows and nothing but the result is observable.

    Args:
        layer: a module; only a plain `nn.Linear` can take the native route.
        x: [..., in_features].
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if is_traced or not is_unmodified_linear(layer):
        return layer(x)
    fits = (
        MIN_ROWS <= count_rows_over_leading_dimensions(x) <= MAX_ROWS and x.shape[-1] == layer.weight.shape[1]
    )
    if not (fits and can_use_engine(x) and has_float32_cpu_weights(layer)):
        return F.linear(
            x, layer.weight, layer.bias
        )  # what the layer computes, without the cost of calling it
    out_features, in_features = layer.weight.shape
    out = x.new_empty(*x.shape[:-1], out_features)
    sizes = {
        "rows": count_rows_over_leading_dimensions(x),
        "out_features": out_features,
        "in_features": in_features,
    }
    weight, bias = make_contiguous(layer.weight), make_contiguous(layer.bias)
    fill_structure_and_call_library(
        "qkv_small_linear", **sizes, x=make_contiguous(x), weight=weight, bias=bias, out=out
    )
    return out


def count_rows_over_leading_dimensions(x: Tensor) -> int:
    """The number of vectors in x [..., width]."""
    return x.numel() // x.shape[-1] if x.shape[-1] else 0


def can_use_engine(x: Tensor) -> bool:
    """Whether the engine is available for x, and nothing but the result of the computation is observable."""
    if not library.IS_LOADED or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return can_bypass_dispatcher((x,)) and _is_none_or_float32_on_cpu(x)


def is_float32_cpu_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a call of the layer computes what `nn.Linear` does in float32 on a CPU, and nothing else."""
    return is_unmodified_linear(layer) and has_float32_cpu_weights(layer)


def is_unmodified_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a call of the layer computes what `nn.Linear` does, and nothing else: no subclass, no hooks."""
    return type(layer) is nn.Linear and call_runs_only_forward(layer)


def has_float32_cpu_weights(layer: nn.Linear) -> bool:
    """Whether weight and bias are ordinary float32 tensors on a CPU."""
    return _is_none_or_float32_on_cpu(layer.weight) and _is_none_or_float32_on_cpu(layer.bias)


def _is_none_or_float32_on_cpu(x: Tensor | None) -> bool:
    if x is None:
        return True
    return type(x) in (Tensor, nn.Parameter) and x.dtype == torch.float32 and x.is_cpu
