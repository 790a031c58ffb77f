"""Who looks at what is done with a tensor: where nobody does, it may be done out of torch's sight."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are at work, for which our operators have no rules."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def seen_by_none(tensors: Iterable[Any]) -> bool:
    """Whether these are numbers only: nobody wants gradients, traces or counts what is done with them.

    The memory of a view that negates does not hold its numbers, so such a view is not.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or transformed() or is_in_torch_dispatch_mode():
        return False
    return all(x is None or (type(x) is Tensor and not x.requires_grad and not x.is_neg()) for x in tensors)
