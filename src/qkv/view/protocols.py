"""Protocols for the parts of a trace that a picture reads. This folder does not import `qkv.trace`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

OCCLUSION = "occlusion"  # the first part of the names of weights that are effects of leaving tokens out


def is_occlusion(name: str) -> bool:
    """Whether weights of this name are effects of leaving tokens out, not attention."""
    return name.split(".")[0] == OCCLUSION


@runtime_checkable
class GridLike(Protocol):
    """The attributes of a `qkv.trace.Grid` that a picture reads."""

    @property
    def height(self) -> int:
        """Rows of cells."""
        ...

    @property
    def width(self) -> int:
        """Columns of cells."""
        ...

    @property
    def picture(self) -> str | None:
        """Path or file name of the picture that the cells divide."""
        ...

    @property
    def area(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of all cells, as fractions of the picture."""
        ...


@runtime_checkable
class WeightAxesLike(Protocol):
    """The attributes of a `qkv.trace.WeightAxes` that a picture reads."""

    @property
    def rows(self) -> str:
        """The name of the axis of the queries."""
        ...

    @property
    def columns(self) -> str:
        """The name of the axis of the keys."""
        ...

    @property
    def causal(self) -> bool:
        """Whether queries attend to no later keys."""
        ...


@runtime_checkable
class ExampleLike(Protocol):
    """The attributes of a `qkv.trace.Example` that a picture reads."""

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """name -> [H, rows, columns]."""
        ...

    @property
    def weight_axes(self) -> Mapping[str, WeightAxesLike]:
        """name -> the names of the axes."""
        ...

    @property
    def named_axes(self) -> Mapping[str, Sequence[str] | GridLike]:
        """name -> axis: tokens, or a grid."""
        ...

    @property
    def log_probs(self) -> np.ndarray | None:
        """Log-probability of every token on one axis."""
        ...

    @property
    def log_probs_axis(self) -> str | None:
        """The name of that axis."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """Further facts, as plain JSON values."""
        ...

    def axes(self, name: str) -> tuple[Sequence[str] | GridLike, Sequence[str] | GridLike]:
        """The axes of the rows and of the columns: tokens, or a grid."""
        ...


@runtime_checkable
class TraceLike(Protocol):
    """The attributes of a `qkv.trace.Trace` that a picture reads."""

    @property
    def examples(self) -> Sequence[ExampleLike]:
        """The examples of the trace."""
        ...

    @property
    def kind(self) -> str:
        """The task of the model."""
        ...

    @property
    def unnormalised(self) -> Sequence[str]:
        """Names of weights whose rows need not be distributions."""
        ...


def list_labels(axis: Sequence[str] | GridLike) -> Sequence[str]:
    """The labels along an axis: its tokens, or "row,column" from 0 for every cell of a grid."""
    if isinstance(axis, GridLike):
        return [f"{row},{column}" for row in range(axis.height) for column in range(axis.width)]
    return axis
