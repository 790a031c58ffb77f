"""Decode states are values: nested tuples of tensors with the batch first.  They are returned, never changed
in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Shared(NamedTuple):
    """Something in a state that all rows of the batch have in common, and that reordering leaves alone."""

    value: Any


def select_rows(state: Any, rows: Tensor) -> Any:
    """The state whose batch row i is the old row `rows[i]`: reorders beams, drops finished rows, repeats a
    row.

    Every tensor inside must have the batch as its first dimension; what is Shared, numbers and None pass
    through.
    """
    if isinstance(state, Shared):
        return state
    return _each(state, lambda part: select_rows(part, rows), lambda tensor: tensor.index_select(0, rows))


def batch_of(state: Any) -> int:
    """The batch size of a state: that of the first tensor in it; 0 where it holds none."""
    if isinstance(state, Tensor):
        return state.shape[0]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return next((size for part in parts if not isinstance(part, Shared) and (size := batch_of(part))), 0)


def first_tensor(state: Any) -> Tensor | None:
    """The first tensor in a state, or in a tuple of arguments; None where it holds none."""
    if isinstance(state, Tensor):
        return state
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def detach(state: Any) -> Any:
    """The state cut off from the graph that made it, what is Shared included: the next segment of a long text
    starts from it, and no gradient runs back into this one.
    """
    if isinstance(state, Shared) and not isinstance(state.value, Tensor):
        return state
    return _each(state, detach, Tensor.detach)


def _each(state: Any, inside: Callable[[Any], Any], of_tensor: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return of_tensor(state)
    if isinstance(state, dict):
        return {name: inside(value) for name, value in state.items()}
    if isinstance(state, tuple):
        parts = [inside(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if state is None or isinstance(state, int | float | str):
        return state
    raise TypeError(
        f"a decode state holds tensors, tuples, dicts and plain values, not {type(state).__name__}"
    )
