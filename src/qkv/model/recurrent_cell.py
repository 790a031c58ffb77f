"""Recurrent cells; the projection of the input words is computed for all steps at once."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _GRUGates(torch.autograd.Function):
    """s' = (1 - z) ∘ tanh(a_n + r ∘ b_n) + z ∘ s with [r; z] = sigmoid(a_rz + b_rz), as in torch.nn.GRU.

    One autograd node replaces a dozen: at these sizes the overhead of a node exceeds its arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        n = s.shape[-1]
        rz = (a[..., : 2 * n] + b[..., : 2 * n]).sigmoid_()
        r, z = rz.chunk(2, -1)
        b_n = b[..., 2 * n :]
        new = torch.addcmul(a[..., 2 * n :], r, b_n).tanh_()
        ctx.save_for_backward(a, b, s, rz, new)
        return torch.lerp(new, s, z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b, s, rz, new = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            return _differentiable_gradients((a, b, s), grad)
        n = s.shape[-1]
        b_n = b[..., 2 * n :]
        r, z = rz.chunk(2, -1)
        d_s = grad * z
        d_a = grad.new_empty(*grad.shape[:-1], 3 * n)
        d_new = torch.mul(grad - d_s, 1 - new * new, out=d_a[..., 2 * n :])
        torch.mul(d_new, b_n, out=d_a[..., :n])
        torch.mul(grad, s - new, out=d_a[..., n : 2 * n])
        d_a[..., : 2 * n] *= rz * (1 - rz)
        d_b = d_a.clone()
        d_b[..., 2 * n :] *= r
        return d_a, d_b, d_s


def _differentiable_gradients(inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of `_GRUGates` as functions of its inputs, by torch operators."""
    # s may be a function of a: views separate the direct gradients of the inputs.
    a, b, s = views = [x.view_as(x) for x in inputs]
    n = s.shape[-1]
    r, z = (a[..., : 2 * n] + b[..., : 2 * n]).sigmoid().chunk(2, -1)
    new = (a[..., 2 * n :] + r * b[..., 2 * n :]).tanh()
    leaves = [x for x in views if x.requires_grad]
    grads = iter(torch.autograd.grad(torch.lerp(new, s, z), leaves, grad, create_graph=True))
    return tuple(next(grads) if x.requires_grad else None for x in views)


class RecurrentCell(nn.Module):
    """A GRU or LSTM cell with the input [word vector; context].

    Args:
        kind: "gru" or "lstm".
        word: Width of a word vector.
        context: Width of the context; 0 for no context.
        hidden: n, the width of the state.
    """

    def __init__(self, kind: str, word: int, context: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        gates = {"gru": 3, "lstm": 4}[kind] * hidden
        self.from_word = nn.Linear(word, gates)
        self.from_context: Any = nn.Linear(context, gates, bias=False) if context else nn.Identity()
        self.from_state = nn.Linear(hidden, gates)

    def start(self, s: Float[Tensor, "B n"]) -> tuple[Tensor, ...]:
        """Build the first state; the memory of an LSTM starts with zeros.

        Args:
            s: [B,n].

        Returns:
            The tensors of the cell: (s,) or (s, memory).
        """
        return (s,) if self.kind == "gru" else (s, torch.zeros_like(s))

    def forward(self, gates: Tensor, context: Tensor | None, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the next state.

        Args:
            gates: [B,G], the projected word, plus that of a fixed context.
            context: [B,context], or None.
            state: The tensors of the cell.

        Returns:
            The tensors of the cell after the step.
        """
        s = state[0]
        a = gates if context is None else gates + self.from_context(context)
        b = self.from_state(s)
        if self.kind == "gru":
            return (_GRUGates.apply(a.to(s.dtype), b.to(s.dtype), s),)
        input_gate, forget_gate, new, output_gate = (a + b).to(s.dtype).chunk(4, -1)
        memory = forget_gate.sigmoid() * state[1] + input_gate.sigmoid() * new.tanh()
        return output_gate.sigmoid() * memory.tanh(), memory


def initialise_orthogonal(weight: Tensor) -> None:
    """Make a matrix orthogonal at random, in place.

    Args:
        weight: The matrix, without a gradient.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # torch has no QR in half precision
    weight.copy_(nn.init.orthogonal_(wide))
