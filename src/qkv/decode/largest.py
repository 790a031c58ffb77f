"""Finds the largest scores of every row, in an order that is the same on all devices and in all formats."""

from jaxtyping import Float, Int
from torch import Tensor


def find_largest(values: Float[Tensor, "N W"], count: int) -> tuple[Float[Tensor, "N C"], Int[Tensor, "N C"]]:
    """The `count` largest values of every row and their indices; equal values stay in order.

    `topk` promises no order of equal values, and half precision makes many. It may also select any of those
    that equal the smallest value selected.

    Args:
        values: [N,W] scores.
        count: C, how many to find; all W if there are fewer.
    """
    count = min(count, values.shape[1])
    best, index = values.topk(min(count + 1, values.shape[1]))
    border, index = best[:, count - 1], index[:, :count]
    is_tied = (best[:, -1] == border) & border.isfinite()
    if best.shape[1] > count and is_tied.any():
        index[is_tied] = _select_first_tied(values[is_tied], border[is_tied, None], count)
    index = index.sort(dim=1).values
    best, order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return best, index.gather(1, order)


def _select_first_tied(
    values: Float[Tensor, "N W"], border: Float[Tensor, "N 1"], count: int
) -> Int[Tensor, "N C"]:
    """The indices of the values above the border and of the first ones equal to it, `count` in all."""
    is_above, is_equal = values > border, values == border
    is_selected = is_above | (is_equal & (is_equal.cumsum(1) <= count - is_above.sum(1, keepdim=True)))
    return is_selected.nonzero()[:, 1].view(-1, count)
