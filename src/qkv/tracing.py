"""What tracers, function transforms and fake tensors forbid: reading values, and choosing by one size a route
that other sizes cannot take.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 has none: there it is always False


def can_read(x: Tensor) -> bool:
    """Whether Python may branch on the values of x: it has some, and no program is being recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    return not (x.is_meta or peek_interpreter_stack() is not None or is_in_torch_dispatch_mode())


def require(condition: Tensor, error: type[Exception], message: str) -> None:
    """Raise `error` with this message unless all of `condition` is True.

    Where values cannot be read, it becomes an assertion of the program that torch.compile or torch.export
    records.  torch.jit.trace and torch.func record none.
    """
    if can_read(condition):
        if not bool(condition.all()):
            raise error(message)
    elif torch.compiler.is_compiling() or (peek_interpreter_stack() is None and not condition.is_meta):
        torch._assert_async(condition.all(), message)  # pyright: ignore[reportPrivateImportUsage]


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
