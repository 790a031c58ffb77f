"""The largest scores of every row, in an order that does not depend on the device or the number format."""

from jaxtyping import Float, Int
from torch import Tensor


def largest(values: Float[Tensor, "N W"], count: int) -> tuple[Float[Tensor, "N C"], Int[Tensor, "N C"]]:
    """The `count` largest of every row and where they are; equal values in the order of their index.

    `topk` promises no order among equals, neither inside nor across its border; half precision makes many.
    """
    count = min(count, values.shape[1])
    best, index = values.topk(min(count + 1, values.shape[1]))
    border, index = best[:, count - 1], index[:, :count]
    unsure = (best[:, -1] == border) & border.isfinite()
    if best.shape[1] > count and unsure.any():
        index[unsure] = _first(values[unsure], border[unsure, None], count)
    index = index.sort(dim=1).values
    best, order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return best, index.gather(1, order)


def _first(values: Float[Tensor, "N W"], border: Float[Tensor, "N 1"], count: int) -> Int[Tensor, "N C"]:
    """Where the values above the border are, and as many of the first ones on it as make `count`."""
    above, equal = values > border, values == border
    chosen = above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))
    return chosen.nonzero()[:, 1].view(-1, count)
