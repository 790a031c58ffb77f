"""Cross-entropy of a linear classifier from its inputs, without the [N,V] logits in memory.

The output layer is the largest product of a small model, and its logits are the largest tensor.  Here a block
of rows at a time is multiplied, exponentiated and, while still in cache, multiplied into the gradients.
With e = exp(logit - max) and z = sum(e), the gradient of one row's loss with respect to its logits is

    e / z - (1 - smoothing) * onehot(target) - smoothing / V

Its last term is the same for every class, so its products with weight and hidden are sums, computed once
outside the blocks.  And 1 / z is multiplied into the smaller factor of each product, never into e itself.
Exponentials are powers of two (logits times log2 e), which take a third of the time of exp on a CPU.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.tracing import find_autocast_dtype, find_backend_device, without_autocast

LOG2_E = 1 / math.log(2)
BLOCK_ENTRIES = {
    "cpu": 2**21,
    "cuda": 2**27,
}  # logits in a block, to stay in a CPU's last cache
MINIMUM_ROWS = 128  # with fewer, adding to the weight's gradient costs as much as its product


class CrossEntropySums(NamedTuple):
    """The loss of N rows.

    Args:
        total: the label-smoothed cross-entropy, summed over the rows.
        nll_per_row: [N], -log p(target) of every row, without smoothing.
        correct_count: how many rows have no class above their target.
    """

    total: Float[Tensor, ""]
    nll_per_row: Float[Tensor, "N"]
    correct_count: Float[Tensor, ""]


class CrossEntropyOfRows(NamedTuple):
    """The loss of N rows, and what is known of each.

    Args:
        total: the label-smoothed cross-entropy, summed over the rows.
        nll: [N], -log p(target) of every row, without smoothing.
        is_correct: [N], whether no class is above the target.
    """

    total: Float[Tensor, ""]
    nll: Float[Tensor, "N"]
    is_correct: Bool[Tensor, "N"]


class _Gradients(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def sum_linear_cross_entropy(
    hidden: Float[Tensor, "N M"],
    weight: Float[Tensor, "V M"],
    bias: Float[Tensor, "V"] | None,
    target: Int[Tensor, "N"],
    *,
    smoothing: float,
    rows: int | None = None,
) -> CrossEntropySums:
    """The label-smoothed cross-entropy of the linear classifier hidden @ weight.T + bias, summed over N rows.

    total = (1 - smoothing) * nll + smoothing / V * sum over classes of -log p

    It equals F.cross_entropy(..., label_smoothing=smoothing, reduction="sum").  Under autocast the products
    run in bfloat16 where autocast uses it; float16 lacks the range, so for it they run in float32, as
    exponentials and sums always do.

    Args:
        hidden: the classifier's inputs.
        weight: its weight.
        bias: its bias, if any.
        target: the class of every row.
        smoothing: from 0 to 1; this much of the probability is spread over all classes.
        rows: rows per block; by default as many as keep a block in cache.

    Returns:
        The sums.  The total alone has a gradient, of first order.

    Raises:
        RuntimeError: the loss is differentiated with create_graph=True.
    """
    total, nll, is_correct = compute_linear_cross_entropy(
        hidden, weight, bias, target, smoothing=smoothing, rows=rows
    )
    return CrossEntropySums(total, nll, is_correct.sum().to(nll.dtype))


def compute_linear_cross_entropy(
    hidden: Float[Tensor, "N M"],
    weight: Float[Tensor, "V M"],
    bias: Float[Tensor, "V"] | None,
    target: Int[Tensor, "N"],
    *,
    smoothing: float,
    rows: int | None = None,
) -> CrossEntropyOfRows:
    """`sum_linear_cross_entropy`, with what is known of every row."""
    entries = BLOCK_ENTRIES.get(find_backend_device(hidden), BLOCK_ENTRIES["cuda"])
    rows = rows or max(MINIMUM_ROWS, entries // weight.shape[0])
    if torch.is_grad_enabled():
        sums = _SummedLinearCrossEntropy.apply(hidden, weight, bias, target, smoothing, rows)
        return CrossEntropyOfRows(*sums)
    layer = _OutputLayer(hidden, weight, bias, smoothing)
    return _compute_sums_and_fill_gradients(layer, hidden, target, rows, None)


class _SummedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        smoothing: float,
        rows_per_block: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients = None
        if any(ctx.needs_input_grad[:3]):
            gradients = _Gradients(
                torch.empty_like(hidden),
                torch.zeros_like(weight),
                None if bias is None else torch.zeros_like(bias),
            )
            ctx.save_for_backward(*gradients)
        layer = _OutputLayer(hidden, weight, bias, smoothing)
        sums = _compute_sums_and_fill_gradients(layer, hidden, target, rows_per_block, gradients)
        ctx.mark_non_differentiable(sums.nll, sums.is_correct)
        return sums.total, sums.nll, sums.is_correct

    @staticmethod
    def backward(
        ctx: Any, grad_total: Tensor, _grad_nll: Any, _grad_is_correct: Any
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "sum_linear_cross_entropy has first derivatives only, and create_graph=True asks for more: "
                "use torch.nn.functional.cross_entropy(hidden @ weight.T + bias, target)"
            )
        scaled = (
            None if saved is None else saved * grad_total.to(saved.dtype) for saved in ctx.saved_tensors
        )
        return (*scaled, None, None, None)


class _BlockExponentials(NamedTuple):
    """What one block of rows gives, with logits in units of log 2 and b rows.

    Args:
        e: [b,V], 2^(logit - max).
        z: [b,1], the sum of e over the classes.
        log_z: [b,1], log2 of the sum of 2^logit.
        at_target: [b,1], the logit of the target.
        is_correct: [b,1], whether no class is above the target.
    """

    e: Tensor
    z: Tensor
    log_z: Tensor
    at_target: Tensor
    is_correct: Tensor


class _OutputLayer:
    """The classifier in the number formats of its products and sums, with its sums over classes."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float) -> None:
        self.product_dtype = _choose_product_dtype(hidden)
        self.sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.classes, self.smoothing = weight.shape[0], smoothing
        self.weight = weight.detach().to(self.product_dtype)
        self.bias = None if bias is None else bias.detach().to(self.sum_dtype) * LOG2_E
        if smoothing != 0:  # a pass over all weights
            self.weight_sum = weight.detach().sum(0, dtype=self.sum_dtype)
        self.bias_sum = 0.0 if bias is None else bias.detach().sum(dtype=self.sum_dtype)

    def compute_exponentials_of_block(self, hidden: Tensor, target: Tensor) -> _BlockExponentials:
        """The block of rows `hidden` [b,M] with targets [b,1].

        One pass each to convert, to scale and add the bias, for the maximum, difference, power and sum.
        """
        e = (hidden @ self.weight.T).to(self.sum_dtype)  # [b, M] @ [M, V]
        if self.bias is None:
            e *= LOG2_E
        else:
            torch.add(self.bias, e, alpha=LOG2_E, out=e)
        at_target, maximum = e.gather(1, target), e.amax(1, keepdim=True)
        z = e.sub_(maximum).exp2_().sum(1, keepdim=True)
        return _BlockExponentials(e, z, z.log2() + maximum, at_target, at_target >= maximum)

    def compute_block_sums(self, hidden: Tensor, block: _BlockExponentials) -> CrossEntropyOfRows:
        """The sums of a block; a row's logits add up to hidden times the sum of weights."""
        nll = (block.log_z - block.at_target) / LOG2_E
        if self.smoothing == 0:
            return CrossEntropyOfRows(nll.sum(), nll[:, 0], block.is_correct[:, 0])
        logit_sum = (hidden.to(self.sum_dtype) @ self.weight_sum)[:, None] + self.bias_sum
        mean_nll = block.log_z / LOG2_E - logit_sum / self.classes  # over the classes
        total = (1 - self.smoothing) * nll + self.smoothing * mean_nll
        return CrossEntropyOfRows(total.sum(), nll[:, 0], block.is_correct[:, 0])


def _compute_sums_and_fill_gradients(
    layer: _OutputLayer, hidden: Tensor, target: Tensor, rows_per_block: int, gradients: _Gradients | None
) -> CrossEntropyOfRows:
    """The sums over all rows; also fills `gradients`, where they are given."""
    blocks = []
    with without_autocast(hidden):
        for block_rows in _split_rows_into_blocks(len(hidden), rows_per_block):
            block_hidden = hidden[block_rows].to(layer.product_dtype)
            block_target = target[block_rows, None]
            block = layer.compute_exponentials_of_block(block_hidden, block_target)
            blocks.append(layer.compute_block_sums(block_hidden, block))
            if gradients is not None:
                _store_hidden_and_add_other_block_gradients(
                    layer, block_hidden, block_target, block, block_rows, gradients
                )
        if gradients is not None and layer.smoothing != 0:
            _subtract_smoothing_gradients(layer, hidden, gradients)
    if not blocks:
        zero, empty = (hidden.new_zeros(size, dtype=layer.sum_dtype) for size in ((), (0,)))
        return CrossEntropyOfRows(zero, empty, empty.bool())
    totals, nlls, are_correct = zip(*blocks, strict=True)
    return CrossEntropyOfRows(torch.stack(totals).sum(), torch.cat(nlls), torch.cat(are_correct))


def _store_hidden_and_add_other_block_gradients(
    layer: _OutputLayer,
    hidden: Tensor,
    target: Tensor,
    block: _BlockExponentials,
    rows: slice,
    gradients: _Gradients,
) -> None:
    """Add a block's gradients, all terms but smoothing / V."""
    inverse = 1 / block.z
    # subtracted before rounding to the product's format, which would lose a confident row's small difference
    e = block.e.scatter_add_(1, target, (layer.smoothing - 1) * block.z).to(layer.product_dtype)
    gradients.hidden[rows] = (e @ layer.weight).to(layer.sum_dtype) * inverse  # [b, V] @ [V, M]
    _add_product_in_place(
        gradients.weight, e.T, (hidden * inverse).to(layer.product_dtype)
    )  # [V, b] @ [b, M]
    if gradients.bias is not None:
        _add_product_in_place(
            gradients.bias[:, None], e.T, inverse.to(layer.product_dtype)
        )  # [V, b] @ [b, 1]


def _add_product_in_place(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to total, in place."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _subtract_smoothing_gradients(layer: _OutputLayer, hidden: Tensor, gradients: _Gradients) -> None:
    """Subtract the term smoothing / V of all rows' gradients."""
    per_class = layer.smoothing / layer.classes
    gradients.hidden.sub_(per_class * layer.weight_sum)
    gradients.weight.sub_(per_class * hidden.sum(0, dtype=layer.sum_dtype))
    if gradients.bias is not None:
        gradients.bias.sub_(per_class * len(hidden))


def _split_rows_into_blocks(row_count: int, rows_per_block: int) -> Iterator[slice]:
    return (slice(start, start + rows_per_block) for start in range(0, row_count, rows_per_block))


def _choose_product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of products: that of the input, or under autocast bfloat16 or float32."""
    dtype = find_autocast_dtype(hidden)
    if dtype is None or hidden.dtype == torch.float64:
        return hidden.dtype
    return torch.float32 if dtype == torch.float16 else dtype
