"""Which of torch.func's transforms and forward-mode derivatives are at work around a call."""

import torch
from torch._C._functorch import TransformType, get_interpreter_stack, peek_interpreter_stack
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether any is: operators without rules for them, and hooks of saved tensors, cannot be used."""
    if torch.compiler.is_compiling():
        return False
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def needs_plain_operators() -> bool:
    """Whether calls are batched or differentiated forwards or twice, for which torch's fused attention has no
    rules.
    """
    if torch.compiler.is_compiling():
        return False
    if forward_ad._current_level >= 0:
        return True
    stack = get_interpreter_stack() or ()
    kinds = [layer.key() for layer in stack]
    return TransformType.Vmap in kinds or kinds.count(TransformType.Grad) > 1
