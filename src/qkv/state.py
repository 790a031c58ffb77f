"""Decode states: nested tuples of tensors with the batch first.  They are values, never changed in place."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Shared(NamedTuple):
    """A value in a state that all rows of the batch share; `select_rows` does not change it.

    Args:
        value: The value.
    """

    value: Any


def select_rows(state: Any, rows: Tensor) -> Any:
    """Select rows of the batch: to reorder beams, drop finished rows or repeat a row.

    Args:
        state: A state; every tensor in it has the batch as its first dimension.  Shared values, numbers and
            None stay as they are.
        rows: Indices of rows, [new batch].

    Returns:
        The state whose row i is the old row `rows[i]`.
    """
    if isinstance(state, Shared):
        return state
    return _map_state(state, lambda part: select_rows(part, rows), lambda x: x.index_select(0, rows))


def batch_size(state: Any) -> int:
    """Get the batch size of a state from the first tensor in it that is not shared.

    Args:
        state: A state.

    Returns:
        The batch size; 0 for a state without tensors.
    """
    if isinstance(state, Tensor):
        return state.shape[0]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return next((size for part in parts if not isinstance(part, Shared) and (size := batch_size(part))), 0)


def first_tensor(state: Any) -> Tensor | None:
    """Find the first tensor in a state or in a tuple of arguments.

    Args:
        state: A state, or a tuple of arguments.

    Returns:
        The tensor; None if there is none.
    """
    if isinstance(state, Tensor):
        return state
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def detach(state: Any) -> Any:
    """Detach all tensors, shared ones included, so that no gradient flows from the next segment of a text.

    Args:
        state: A state.

    Returns:
        The same values without a graph.
    """
    if isinstance(state, Shared) and not isinstance(state.value, Tensor):
        return state
    return _map_state(state, detach, Tensor.detach)


def _map_state(state: Any, map_part: Callable[[Any], Any], map_tensor: Callable[[Tensor], Tensor]) -> Any:
    """The state with `map_tensor` of a tensor, or `map_part` of every part of a tuple or dict."""
    if isinstance(state, Tensor):
        return map_tensor(state)
    if isinstance(state, dict):
        return {name: map_part(value) for name, value in state.items()}
    if isinstance(state, tuple):
        parts = [map_part(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if state is None or isinstance(state, int | float | str):
        return state
    raise TypeError(
        f"a decode state holds tensors, tuples, dicts and plain values, not {type(state).__name__}"
    )


def map_tensors(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The state with every tensor changed, what is Shared included.

    Args:
        state: a decode state.
        change: called with every tensor.
    """
    if isinstance(state, Shared) and not isinstance(state.value, Tensor):
        return state
    return _map_state(state, lambda part: map_tensors(part, change), change)


def to_plain(state: Any) -> Any:
    """Turn a state into lists, tensors and plain values, which a file can hold.

    Args:
        state: a decode state; its tensors are not copied.

    Returns:
        The same values, with a list for every tuple.
    """
    if isinstance(state, tuple):
        return [to_plain(part) for part in state]
    if isinstance(state, dict):
        return {name: to_plain(value) for name, value in state.items()}
    return state


def from_plain(plain: Any, like: Any) -> Any:
    """Turn what `to_plain` returned into a state again.

    Args:
        plain: lists, tensors and plain values.
        like: a state of the same model, which says of what type each tuple is.

    Returns:
        The state.

    Raises:
        ValueError: the lists do not have the lengths of the tuples.
    """
    if isinstance(plain, list):
        names = like if isinstance(like, tuple) else (None,) * len(plain)
        parts = [from_plain(part, other) for part, other in zip(plain, names, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
    if isinstance(plain, dict):
        return {name: from_plain(value, like[name]) for name, value in plain.items()}
    return plain
