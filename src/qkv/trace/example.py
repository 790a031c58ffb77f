"""One example of a trace: its axes, and the attention weights between them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.trace.axes import Axis, Grid, WeightAxes

LOG_PROBS = "log_probs"  # the name of an array in the file that no weights may have
TOLERANCE = 5e-3  # of a row's sum: float16 in the file adds up to 2^-11, a bfloat16 model up to 2^-8

_WEIGHT_NAME = re.compile(
    r"(?!.*\.npy$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
)  # part of a file name in the archive
_LONGEST_AXIS_NAME = 100
_UNNORMALISED_HINT = "if the mechanism does not normalise its weights, list the name in `unnormalised`"


@dataclass(frozen=True, eq=False)
class Example:
    """One example: named axes, and arrays of attention weights that lie between two of them.

    Args:
        named_axes: name -> axis: the tokens as the model reads them, special tokens included, or a `Grid`.
            A translation has "source" and "target".
        weights: name -> [H, rows, columns], as "cross.0" for layer 0. Copied as float32 and read-only.
        weight_axes: the axes of the rows and columns of every array in `weights`, by the same names.
        log_probs: log-probability of every token on one axis; None if unknown.
        log_probs_axis: the name of that axis; None without `log_probs`.
        meta: any further facts, as plain JSON values.

    Raises:
        BadData: if names, axes, shapes and values contradict each other.
    """

    named_axes: Mapping[str, Axis]
    weights: Mapping[str, np.ndarray]
    weight_axes: Mapping[str, WeightAxes]
    log_probs: np.ndarray | None = None
    log_probs_axis: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {
            "named_axes": {name: _validate_axis(name, axis) for name, axis in self.named_axes.items()},
            "weights": {name: _copy_read_only(weight) for name, weight in self.weights.items()},
            "weight_axes": {name: WeightAxes(*pair) for name, pair in self.weight_axes.items()},
            "log_probs": None if self.log_probs is None else _copy_read_only(self.log_probs),
            "meta": copy_json(self.meta),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if set(self.weights) != set(self.weight_axes):
            [name, *_] = sorted(set(self.weights) ^ set(self.weight_axes))
            raise BadData(
                f"{name!r} needs both an array in `weights` and its axes in `weight_axes`: pass both"
            )
        for name in self.weights:
            _check_weights(self, name)
        _check_log_probs(self)

    @property
    def source(self) -> tuple[str, ...]:
        """The tokens of the axis "source"; UnknownName if the example has none."""
        return self._tokens("source")

    @property
    def target(self) -> tuple[str, ...]:
        """The tokens of the axis "target"; UnknownName if the example has none."""
        return self._tokens("target")

    def axes(self, name: str) -> tuple[Axis, Axis]:
        """The axes of the rows and columns of the weights with this name.

        Raises:
            UnknownName: if the example has no such weights.
        """
        if name not in self.weight_axes:
            raise UnknownName(
                f"there are no weights {name!r} in this example. {did_you_mean(name, self.weight_axes)}"
            )
        pair = self.weight_axes[name]
        return self.named_axes[pair.rows], self.named_axes[pair.columns]

    def _tokens(self, name: str) -> tuple[str, ...]:
        axis = self.named_axes.get(name)
        if not isinstance(axis, tuple):
            raise UnknownName(
                f"this example has no axis {name!r} of tokens. Its axes: {', '.join(sorted(self.named_axes))}"
            )
        return axis


def stack_steps(steps: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the weights [H, S_t] of T decoding steps to one array [H, T, S], padded with zeros."""
    width = max(step.shape[1] for step in steps)
    return np.stack([np.pad(step, ((0, 0), (0, width - step.shape[1]))) for step in steps], axis=1)


def copy_json(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `meta` as plain JSON values.

    Raises:
        BadData: if it holds other values.
    """
    try:
        return json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadData(
            f"meta holds JSON values only (text, finite numbers, lists, mappings); convert others: {error}"
        ) from None


def check_distributions(label: str, weight: np.ndarray) -> None:
    """Check that every row of weights [H, rows, columns] is a distribution or all 0.

    Args:
        label: names the weights in the message.
        weight: the array.

    Raises:
        BadData: if a value lies outside [0, 1], or a row sums to neither 1 nor 0.
    """
    if weight.size == 0:
        return
    low, high = float(weight.min()), float(weight.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise BadData(
            f"{label} holds values from {low:.4g} to {high:.4g}, but weights lie in [0, 1]; "
            f"{_UNNORMALISED_HINT}"
        )
    sums = weight.sum(axis=-1, dtype=np.float64)
    invalid = sums[(np.abs(sums - 1) > TOLERANCE) & weight.any(axis=-1)]
    if invalid.size:
        raise BadData(
            f"{label} has {invalid.size} of {sums.size} rows that do not sum to 1 (the first: "
            f"{invalid[0]:.4g}); rows must sum to 1, or be all 0 if there is no key to attend to; "
            f"{_UNNORMALISED_HINT}"
        )


def _copy_read_only(values: Any) -> np.ndarray:
    """A read-only copy as float32; values that are too large become infinite and fail a later check."""
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


def _validate_axis(name: Any, axis: Any) -> Axis:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_AXIS_NAME:
        raise BadData(
            f"an axis has a name of 1 to {_LONGEST_AXIS_NAME} printable characters, not "
            f"{str(name)[:40]!r}: rename it"
        )
    if isinstance(axis, Grid):
        return axis
    if isinstance(axis, str) or not all(isinstance(token, str) for token in axis):
        raise BadData(
            f"the axis {name!r} must be a sequence of tokens (strings) or a Grid, not {type(axis).__name__}"
        )
    return tuple(axis)


def _check_weights(example: Example, name: str) -> None:
    if name == LOG_PROBS or not _WEIGHT_NAME.fullmatch(name):
        raise BadData(
            f'weights have names as "cross.0": letters, digits, ".", "_" and "-", not {name[:40]!r}: '
            "rename them"
        )
    pair, weight = example.weight_axes[name], example.weights[name]
    for axis in (pair.rows, pair.columns):
        _check_known_axis(example, name, axis)
    rows, columns = map(len, example.axes(name))
    if weight.ndim != 3 or weight.shape[1:] != (rows, columns):
        raise BadData(
            f"{name} has shape {weight.shape}, but its axes have {rows} {pair.rows} and "
            f"{columns} {pair.columns} positions: it must be (heads, {rows}, {columns})"
        )
    if not np.isfinite(weight).all():
        raise BadData(
            f"{name} holds values that are not finite: look for NaN in the model that computed them"
        )
    if pair.causal and np.triu(weight, 1 + columns - rows).any():
        raise BadData(
            f"{name} is causal, but attends to later keys: set those weights to 0, or pass causal=False"
        )


def _check_log_probs(example: Example) -> None:
    log_probs, axis = example.log_probs, example.log_probs_axis
    if (log_probs is None) != (axis is None):
        raise BadData("log_probs and log_probs_axis belong together: pass both or neither")
    if log_probs is None or axis is None:
        return
    _check_known_axis(example, LOG_PROBS, axis)
    count = len(example.named_axes[axis])
    if log_probs.shape != (count,):
        raise BadData(
            f"log_probs has shape {log_probs.shape} for {count} {axis} positions: pass one for each"
        )
    if not (np.isfinite(log_probs) & (log_probs < TOLERANCE)).all():
        raise BadData(
            f"log_probs holds values from {log_probs.min():.3g} to {log_probs.max():.3g}, but natural "
            "logarithms of probabilities are finite and not above 0: pass log p, not p or -log p"
        )


def _check_known_axis(example: Example, name: str, axis: Any) -> None:
    if axis not in example.named_axes:
        raise BadData(
            f"{name} names the axis {axis!r}, which the example does not have. "
            f"{did_you_mean(str(axis), example.named_axes)}"
        )
