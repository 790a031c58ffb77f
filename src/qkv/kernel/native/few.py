"""A linear layer of few rows, as decoding calls it: too few for all that a general product prepares."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from qkv.kernel.native import library
from qkv.kernel.native.library import call, flat
from qkv.kernel.native.ops import seen_by_none

# Below, torch's product of a matrix and a vector is as fast; above, its product of two matrices.
LEAST, MOST = 3, 32


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x): by the native engine where there are few rows and nobody sees more of it than its result."""
    if torch.compiler.is_compiling() or not _takes(layer, x):
        return layer(x)
    out = x.new_empty(*x.shape[:-1], layer.out_features)
    sizes = {"rows": x.numel() // x.shape[-1], "columns": layer.out_features, "width": x.shape[-1]}
    call("qkv_few", **sizes, x=flat(x), matrix=flat(layer.weight), bias=flat(layer.bias), out=out)
    return out


def _takes(layer: nn.Linear, x: Tensor) -> bool:
    if not library.BUILT or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if not LEAST * x.shape[-1] <= x.numel() <= MOST * x.shape[-1] or not seen_by_none((x,)):
        return False
    return _plain(layer) and all(_plainly_held(part) for part in (x, layer.weight, layer.bias))


def _plain(layer: nn.Linear) -> bool:
    """Whether calling it does what nn.Linear does, and nothing besides."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook()
    return type(layer) is nn.Linear and not hooked and "forward" not in layer.__dict__


def _plainly_held(part: Tensor | None) -> bool:
    if part is None:
        return True
    return type(part) in (Tensor, nn.Parameter) and part.dtype == torch.float32 and part.device.type == "cpu"
