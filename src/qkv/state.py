"""Decode states are values: nested tuples of tensors with the batch first.  They are returned, never changed
in place.
"""

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
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, dict):
        return {name: select_rows(value, rows) for name, value in state.items()}
    if isinstance(state, tuple):
        parts = [select_rows(part, rows) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if state is None or isinstance(state, int | float | str):
        return state
    raise TypeError(
        f"a decode state holds tensors, tuples, dicts and plain values, not {type(state).__name__}"
    )
