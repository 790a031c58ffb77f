"""The private names of torch that qkv uses.

torch has no public functions to find out which function transforms, forward-mode derivatives and dispatch
modes are active, and whether calling a module runs more than its `forward`.  `MISSING` lists the names that
the installed torch lacks.  If there are any, every function returns the answer that excludes fast backends,
the native engine is not used, and `qkv doctor` reports it.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

MISSING: list[str] = []

_KINDS_OF_HOOKS = ("forward_pre", "forward", "backward_pre", "backward")


def _find_attribute(module: str, *path: str) -> Any:
    """The attribute at this path of a torch module; None, recorded in MISSING, where there is none."""
    try:
        value: Any = import_module(module)
        for name in path:
            value = getattr(value, name)
    except (ImportError, AttributeError):
        MISSING.append(".".join((module, *path)))
        return None
    return value


_peek_interpreter = _find_attribute("torch._C._functorch", "peek_interpreter_stack")
_interpreters = _find_attribute("torch._C._functorch", "get_interpreter_stack")
_vmap_kind = _find_attribute("torch._C._functorch", "TransformType", "Vmap")
_grad_kind = _find_attribute("torch._C._functorch", "TransformType", "Grad")
_is_dispatch_mode_active = _find_attribute("torch.utils._python_dispatch", "is_in_torch_dispatch_mode")
_global_hooks = tuple(
    _find_attribute("torch.nn.modules.module", f"_global_{kind}_hooks") for kind in _KINDS_OF_HOOKS
)
_assert_async = _find_attribute("torch", "_assert_async")
_has_level = _find_attribute("torch.autograd.forward_ad", "_current_level") is not None

_module = nn.Module()
for _name in ("_compiled_call_impl", *(f"_{kind}_hooks" for kind in _KINDS_OF_HOOKS)):
    if not hasattr(_module, _name):
        MISSING.append(f"torch.nn.Module.{_name}")


def missing_names() -> str:
    """Describe which private names the installed torch lacks.

    Returns:
        A sentence; "" where it has all.
    """
    return f"torch {torch.__version__} lacks {', '.join(MISSING)}" if MISSING else ""


def is_function_transform_active() -> bool:
    """Check whether a transform of torch.func (vmap, grad, jvp, functionalize) is active.

    Returns:
        Whether one is active; True if unknown.
    """
    return _peek_interpreter is None or _peek_interpreter() is not None


def is_forward_mode_active() -> bool:
    """Check whether forward-mode derivatives are being computed.

    Returns:
        Whether they are; True if unknown.
    """
    return not _has_level or forward_ad._current_level >= 0


def is_batched_or_differentiated_twice() -> bool:
    """Check whether torch.func.vmap, or one torch.func.grad inside another, is active.

    Returns:
        Whether one is active; True if unknown.
    """
    if _interpreters is None or _vmap_kind is None or _grad_kind is None:
        return True
    kinds = [interpreter.key() for interpreter in _interpreters() or ()]
    return _vmap_kind in kinds or kinds.count(_grad_kind) > 1


def is_dispatch_mode_active() -> bool:
    """Check whether a TorchDispatchMode (fake tensors, a tracer, a counter) is active.

    Returns:
        Whether one is active; True if unknown.
    """
    return _is_dispatch_mode_active is None or _is_dispatch_mode_active()


def call_runs_only_forward(module: nn.Module) -> bool:
    """Check whether calling a module runs the `forward` of its class and nothing else.

    Args:
        module: The module.

    Returns:
        Whether it has no hooks and is not compiled; False if any private name is missing.
    """
    if MISSING or any(_global_hooks):
        return False
    if "forward" in module.__dict__ or module._compiled_call_impl is not None:
        return False
    pre_hooks = module._forward_pre_hooks or module._backward_pre_hooks
    return not (pre_hooks or module._forward_hooks or module._backward_hooks)


def assert_later(condition: Tensor, message: str) -> None:
    """Add an assertion to the program that torch.compile or torch.export records, if torch supports it.

    Args:
        condition: A boolean tensor of one element.
        message: The message of the error.
    """
    if _assert_async is not None:
        _assert_async(condition, message)
