"""What watches or records a call: autograd, tracers, function transforms, fake tensors.

While any of them is active, Python may not read values, choose a route by one size that other sizes cannot
take, or compute outside torch's dispatcher.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from qkv.torch_internals import (
    MISSING,
    assert_later,
    is_batched_or_differentiated_twice,
    is_dispatch_mode_active,
    is_forward_mode_active,
    is_function_transform_active,
)

_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 has none: there it is always False


def can_read(x: Tensor) -> bool:
    """Whether Python may branch on the values of x: it has some, and no program is being recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    return not (x.is_meta or is_function_transform_active() or is_dispatch_mode_active())


def can_bypass_dispatcher(tensors: Iterable[Any]) -> bool:
    """Whether these may be computed on outside torch's dispatcher: nothing records or differentiates it.

    The memory of a view that negates does not hold its numbers, so such a view may not.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or MISSING or is_transformed() or is_dispatch_mode_active():
        return False
    return all(x is None or (type(x) is Tensor and not x.requires_grad and not x.is_neg()) for x in tensors)


def is_transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are active.

    Operators without rules for them, and hooks of saved tensors, cannot be used then.
    """
    if torch.compiler.is_compiling():
        return False
    return is_function_transform_active() or is_forward_mode_active()


def needs_plain_operators() -> bool:
    """Whether calls are batched or differentiated forwards or twice: torch's fused attention has no rules
    for these.
    """
    if torch.compiler.is_compiling():
        return False
    return is_forward_mode_active() or is_batched_or_differentiated_twice()


def require(condition: Tensor, error: type[Exception], message: str) -> None:
    """Raise `error` with this message unless all of `condition` is True.

    Where values cannot be read, it becomes an assertion of the program that torch.compile or torch.export
    records.  torch.jit.trace and torch.func record none.
    """
    if can_read(condition):
        if not bool(condition.all()):
            raise error(message)
    elif torch.compiler.is_compiling() or not (is_function_transform_active() or condition.is_meta):
        assert_later(condition.all(), message)


def is_recording(size: int | torch.SymInt | Tensor) -> bool:
    """Whether a program is being recorded that may be run with other sizes than this one.

    torch.compile does not count: it records another program for a size that needs one.
    """
    return _is_exporting() or isinstance(size, torch.SymInt | Tensor)


def always(condition: bool | torch.SymBool | Tensor) -> bool:
    """Whether a condition on sizes holds; in a recorded program, whether it holds for all sizes it takes."""
    if type(condition) is bool and not _is_exporting():
        return condition
    if _is_exporting() or isinstance(condition, torch.SymBool):
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

        return statically_known_true(condition)  # pyright: ignore[reportArgumentType]
    if torch.compiler.is_compiling():
        return bool(condition)
    # In torch.jit.trace sizes are tensors, and their range is unknown.
    return not isinstance(condition, Tensor) and bool(condition)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of x; meta tensors have none.

    Where autocast is off already nothing is entered: that would cost time in every decoding step.
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
