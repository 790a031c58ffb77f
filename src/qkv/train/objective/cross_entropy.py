"""Cross-entropy straight from hidden states: the [N,V] logits never exist as a whole.

The output layer is the largest product of a small model, and its logits the largest tensor.  Here a block of
rows at a time is multiplied, exponentiated and, while still in cache, multiplied back into the gradients.
With e = exp(logit - max) and z = sum(e), the gradient of one row's loss with respect to its logits is

    e / z - (1 - smoothing) * onehot(target) - smoothing / V

Its last term is the same for every class, so its products with weight and hidden are sums, taken once outside
the blocks; and 1 / z scales the thin side of each product.  The block itself is never normalised.
Exponentials are powers of two (logits times log2 e), which take a third of the time of exp on a CPU.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOG2_E = 1 / math.log(2)
BLOCK_ENTRIES = {
    "cpu": 2**21,
    "cuda": 2**27,
}  # logits in a block, to stay in a CPU's last cache
FEWEST_ROWS = 128  # with fewer, adding up the weight's gradient costs as much as its product


class _Sums(NamedTuple):
    total: Tensor
    nll: Tensor  # of every row
    correct: Tensor


class _Gradients(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def linear_cross_entropy(
    hidden: Float[Tensor, "N M"],
    weight: Float[Tensor, "V M"],
    bias: Float[Tensor, "V"] | None,
    target: Int[Tensor, "N"],
    *,
    smoothing: float,
    rows: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "N"], Float[Tensor, ""]]:
    """(total, nll, correct) of the linear classifier hidden @ weight.T + bias over the N rows.

    total: (1 - smoothing) * nll + smoothing / V * sum over classes of -log p; equals
    F.cross_entropy(..., label_smoothing=smoothing, reduction="sum").  It alone has a gradient, of first
    order: create_graph=True raises RuntimeError.
    nll: -log p(target) of every row.  correct: how many rows have no class above their target.
    rows: rows per block; by default as many as keep a block in cache.  Under autocast the products run in
    bfloat16 where it says so; float16 lacks the range, so for it they run in float32, as exponentials and
    sums always do.
    """
    entries = BLOCK_ENTRIES.get(hidden.device.type, BLOCK_ENTRIES["cuda"])
    rows = rows or max(FEWEST_ROWS, entries // weight.shape[0])
    if torch.is_grad_enabled():
        total, nll, correct = _LinearCrossEntropy.apply(hidden, weight, bias, target, smoothing, rows)
    else:
        total, nll, correct = _sweep(_Head(hidden, weight, bias, smoothing), hidden, target, rows, None)
    return total, nll, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, target: Any, smoothing: Any, rows: Any) -> Any:
        gradients = None
        if any(ctx.needs_input_grad[:3]):
            gradients = _Gradients(
                torch.empty_like(hidden),
                torch.zeros_like(weight),
                None if bias is None else torch.zeros_like(bias),
            )
            ctx.save_for_backward(*gradients)
        sums = _sweep(_Head(hidden, weight, bias, smoothing), hidden, target, rows, gradients)
        ctx.mark_non_differentiable(sums.nll, sums.correct)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, scale: Any, _nll: Any, _correct: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_cross_entropy has first derivatives only, and create_graph=True asks for more: use "
                "torch.nn.functional.cross_entropy(hidden @ weight.T + bias, target)"
            )
        scaled = (None if saved is None else saved * scale.to(saved.dtype) for saved in ctx.saved_tensors)
        return (*scaled, None, None, None)


class _Block(NamedTuple):
    """e, z, log2(z) + max, and the target's logit, of one block of rows; logits are in units of log 2."""

    e: Tensor
    z: Tensor
    log_z: Tensor
    at_target: Tensor
    correct: Tensor


class _Head:
    """The output layer in the number formats of the sweep, with its sums over classes."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float) -> None:
        self.dtype = _product_dtype(hidden)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.classes, self.smoothing = weight.shape[0], smoothing
        self.thin = weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.wide) * LOG2_E
        self.column_sum = weight.detach().sum(0, dtype=self.wide)
        self.bias_sum = 0.0 if bias is None else bias.detach().sum(dtype=self.wide)

    def exponentials(self, h: Tensor, target: Tensor) -> _Block:
        """One pass to widen, one to scale and add the bias, one each for max, minus, power and sum."""
        e = (h @ self.thin.T).to(self.wide)
        if self.bias is None:
            e *= LOG2_E
        else:
            torch.add(self.bias, e, alpha=LOG2_E, out=e)
        at_target, top = e.gather(1, target), e.amax(1, keepdim=True)
        z = e.sub_(top).exp2_().sum(1, keepdim=True)
        return _Block(e, z, z.log2() + top, at_target, at_target >= top)

    def sums(self, h: Tensor, block: _Block) -> _Sums:
        """The sums of a block; a row's logits add up to hidden times the sum of weights."""
        nll = (block.log_z - block.at_target) / LOG2_E
        logits = (h.to(self.wide) @ self.column_sum)[:, None] + self.bias_sum
        spread = block.log_z / LOG2_E - logits / self.classes
        total = (1 - self.smoothing) * nll + self.smoothing * spread
        return _Sums(total.sum(), nll[:, 0], block.correct.sum().to(self.wide))


def _sweep(head: _Head, hidden: Tensor, target: Tensor, rows: int, gradients: _Gradients | None) -> _Sums:
    """The sums over all rows; fills `gradients` on the way where they are wanted."""
    blocks = []
    with torch.autocast(hidden.device.type, enabled=False):
        for piece in _pieces(len(hidden), rows):
            h, t = hidden[piece].to(head.dtype), target[piece, None]
            block = head.exponentials(h, t)
            blocks.append(head.sums(h, block))
            if gradients is not None:
                _add_gradients(head, h, t, block, piece, gradients)
        if gradients is not None:
            _subtract_smoothing(head, hidden, gradients)
    if not blocks:
        return _Sums(*(hidden.new_zeros(size, dtype=head.wide) for size in ((), (0,), ())))
    totals, nlls, corrects = zip(*blocks, strict=True)
    return _Sums(torch.stack(totals).sum(), torch.cat(nlls), torch.stack(corrects).sum())


def _add_gradients(
    head: _Head, h: Tensor, t: Tensor, block: _Block, piece: slice, gradients: _Gradients
) -> None:
    inverse = 1 / block.z
    # subtracted in the wide format: after rounding, a confident row's small difference would be lost
    e = block.e.scatter_add_(1, t, (head.smoothing - 1) * block.z).to(head.dtype)
    gradients.hidden[piece] = (e @ head.thin).to(head.wide) * inverse
    _add_product(gradients.weight, e.T, (h * inverse).to(head.dtype))
    if gradients.bias is not None:
        _add_product(gradients.bias[:, None], e.T, inverse.to(head.dtype))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _subtract_smoothing(head: _Head, hidden: Tensor, gradients: _Gradients) -> None:
    share = head.smoothing / head.classes
    gradients.hidden.sub_(share * head.column_sum)
    gradients.weight.sub_(share * hidden.sum(0, dtype=head.wide))
    if gradients.bias is not None:
        gradients.bias.sub_(share * len(hidden))


def _pieces(length: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, length, rows))


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or hidden.dtype == torch.float64:
        return hidden.dtype
    dtype = torch.get_autocast_dtype(device)
    return torch.float32 if dtype == torch.float16 else dtype
