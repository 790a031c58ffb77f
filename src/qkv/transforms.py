"""Which of torch.func's transforms and forward-mode derivatives are at work around a call."""

from torch._C._functorch import TransformType, get_interpreter_stack, peek_interpreter_stack
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether any is: operators without rules for them, and hooks of saved tensors, cannot be used."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def differentiated_forward_or_twice() -> bool:
    """Whether derivatives are taken forwards, or by two transforms: operators need formulas for both."""
    if forward_ad._current_level >= 0:
        return True
    stack = get_interpreter_stack() or ()
    return sum(layer.key() == TransformType.Grad for layer in stack) > 1
