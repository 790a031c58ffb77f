"""Scores that multiply queries and keys."""

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART


def scaled_dot(q: Query, k: Key) -> Logits:
    """score(q, k) = q·k / sqrt(D)  [B,H,T,S].  Vaswani et al. 2017, eq. 1."""
    return (q @ k.mT) * q.shape[-1] ** -0.5


@dataclass(frozen=True, config=PART)
class ScaledDot(Part):
    """Dot product divided by the square root of the width, so that its variance is 1 for unit-variance
    inputs.
    """

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "scaled_dot"
    formula: ClassVar[str] = "q·k / sqrt(D)"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"
    learns: ClassVar[bool] = False
    two_widths: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The score itself: it owns no parameters."""
        return self

    def prepare(self, k: Key) -> Key:
        """The keys as they are: nothing can be computed ahead."""
        return k

    def __call__(self, q: Query, prepared: Key) -> Logits:
        """Scores of every query with every key."""
        return scaled_dot(q, prepared)
