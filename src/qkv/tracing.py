"""Detects autograd, tracing, function transforms and fake tensors.

While one of them is active, Python must not read values, choose a backend by a size that may change, or
compute outside torch's dispatcher.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
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

_device_of_meta_tensors: ContextVar[str] = ContextVar("device of meta tensors", default="meta")

_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 has none: there it is always False


@contextmanager
def use_backends_of(device: str) -> Iterator[None]:
    """Let meta tensors take the backends of a device, so that they show what it would compute and store.

    Args:
        device: A kind of device, such as "cpu".
    """
    token = _device_of_meta_tensors.set(device)
    try:
        yield
    finally:
        _device_of_meta_tensors.reset(token)


def find_backend_device(x: Tensor) -> str:
    """The kind of device whose backends a tensor takes.

    Args:
        x: The tensor.

    Returns:
        That of the tensor; for a meta tensor the one of `use_backends_of`, "meta" outside of it.
    """
    return _device_of_meta_tensors.get() if x.is_meta else x.device.type


def can_read(x: Tensor) -> bool:
    """Check whether Python may branch on the values of a tensor.

    Args:
        x: The tensor.

    Returns:
        False for tensors without values, and while a program is recorded.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    return not (x.is_meta or is_function_transform_active() or is_dispatch_mode_active())


def can_bypass_dispatcher(tensors: Iterable[Any]) -> bool:
    """Check whether native code may read tensors directly: nothing records or differentiates the operation.

    A lazily negated view does not qualify, because its memory does not hold its values; neither does a meta
    tensor, which has none.

    Args:
        tensors: The inputs; None entries are ignored.

    Returns:
        Whether the dispatcher may be bypassed.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or MISSING or is_transformed() or is_dispatch_mode_active():
        return False
    return all(x is None or _is_readable(x) for x in tensors)


def _is_readable(x: Any) -> bool:
    return type(x) is Tensor and not (x.requires_grad or x.is_neg() or x.is_meta)


def is_transformed() -> bool:
    """Check whether torch.func or forward-mode derivatives are active.

    Operators without rules for them, and saved-tensor hooks, do not work then.

    Returns:
        Whether one of them is active.
    """
    if torch.compiler.is_compiling():
        return False
    return is_function_transform_active() or is_forward_mode_active()


def needs_plain_operators() -> bool:
    """Check whether vmap, forward-mode or second derivatives are active: fused attention supports none.

    Returns:
        Whether only plain operators may be used.
    """
    if torch.compiler.is_compiling():
        return False
    return is_forward_mode_active() or is_batched_or_differentiated_twice()


def require(condition: Tensor, error: type[Exception], message: str) -> None:
    """Raise an error unless all elements of a condition are True.

    Where values cannot be read, torch.compile and torch.export record an assertion instead; torch.jit.trace
    and torch.func record nothing.

    Args:
        condition: A boolean tensor.
        error: The class of the error.
        message: Its message.
    """
    if can_read(condition):
        if not bool(condition.all()):
            raise error(message)
    elif torch.compiler.is_compiling() or not (is_function_transform_active() or condition.is_meta):
        assert_later(condition.all(), message)


def is_recording(size: int | torch.SymInt | Tensor) -> bool:
    """Check whether a program is being recorded that may run with other sizes.

    torch.compile with a fixed size does not count: it records another program for another size.

    Args:
        size: A size of a tensor.

    Returns:
        Whether the size may change.
    """
    return _is_exporting() or isinstance(size, (torch.SymInt, Tensor))  # torch 2.6 compiles no union


def holds_for_all_sizes(condition: bool | torch.SymBool | Tensor) -> bool:
    """Check whether a condition on sizes holds for all sizes that a recorded program accepts.

    Args:
        condition: A comparison of sizes.

    Returns:
        The value of the condition where nothing is recorded; False where it cannot be proven.
    """
    if type(condition) is bool and not _is_exporting():
        return condition
    if _is_exporting() or isinstance(condition, torch.SymBool):
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

        return statically_known_true(condition)  # pyright: ignore[reportArgumentType]
    if torch.compiler.is_compiling():
        return bool(condition)
    # In torch.jit.trace sizes are tensors, and their range is unknown.
    return not isinstance(condition, Tensor) and bool(condition)


def find_autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast multiplies on the device of a tensor.

    Args:
        x: The tensor.

    Returns:
        The dtype; None where autocast is off.
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Build a context without autocast on the device of a tensor.

    Where autocast is off, the context does nothing: entering autocast costs time in every decoding step.

    Args:
        x: The tensor.

    Returns:
        The context.
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
