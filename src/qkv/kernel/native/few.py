"""A linear layer of few rows, as decoding calls it: too few for all that a general product prepares."""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.kernel.native import library
from qkv.kernel.native.library import call, flat
from qkv.torch_internals import call_runs_only_forward
from qkv.tracing import can_bypass_dispatcher

# Below, torch's product of a matrix and a vector is as fast; above, its product of two matrices.
LEAST, MOST = 3, 32


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x): by the native engine where there are few rows and nobody sees more of it than its result."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not usual(layer):  # pyright: ignore[reportPrivateImportUsage]
        return layer(x)
    fits = LEAST <= rows_of(x) <= MOST and x.shape[-1] == layer.weight.shape[1]
    if not (fits and wanted(x) and held_plainly(layer)):
        return F.linear(x, layer.weight, layer.bias)  # what calling the layer comes to, sooner
    columns, width = layer.weight.shape
    out = x.new_empty(*x.shape[:-1], columns)
    sizes = {"rows": rows_of(x), "columns": columns, "width": width}
    call("qkv_few", **sizes, x=flat(x), matrix=flat(layer.weight), bias=flat(layer.bias), out=out)
    return out


def rows_of(x: Tensor) -> int:
    """How many vectors x holds."""
    return x.numel() // x.shape[-1] if x.shape[-1] else 0


def wanted(x: Tensor) -> bool:
    """Whether the engine is there, and all that anyone sees of what is done with x is the result."""
    if not library.BUILT or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return can_bypass_dispatcher((x,)) and _plainly_held(x)


def plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling the layer does what nn.Linear does in float32 on a CPU, and nothing besides."""
    return usual(layer) and held_plainly(layer)


def usual(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling the layer does what nn.Linear does, and nothing besides."""
    return type(layer) is nn.Linear and call_runs_only_forward(layer)


def held_plainly(layer: nn.Linear) -> bool:
    """Whether its weights are float32 numbers on a CPU."""
    return _plainly_held(layer.weight) and _plainly_held(layer.bias)


def _plainly_held(part: Tensor | None) -> bool:
    if part is None:
        return True
    return type(part) in (Tensor, nn.Parameter) and part.dtype == torch.float32 and part.is_cpu
