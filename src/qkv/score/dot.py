"""Scores that multiply queries and keys."""

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def dot(q: Query, k: Key) -> Logits:
    """score(q, k) = q·k  [B,H,T,S].  Luong et al. 2015, section 3.1, dot."""
    return q @ k.mT


def scaled_dot(q: Query, k: Key) -> Logits:
    """score(q, k) = q·k / sqrt(D)  [B,H,T,S].  Vaswani et al. 2017, eq. 1."""
    return (q * q.shape[-1] ** -0.5) @ k.mT  # in this order half precision does not overflow


class Product(Part):
    """What the parts of this file share: they own no parameters and compare the keys as they are."""

    axis: ClassVar[str] = "score"
    learns: ClassVar[bool] = False
    two_widths: ClassVar[bool] = False
    positional: ClassVar[bool] = False
    is_dot_product: ClassVar[bool] = True
    has_native_scores: ClassVar[bool] = False
    numbers_per_pair: ClassVar[int] = 1

    def build(self, dims: Dims) -> Any:
        """The score itself: it owns no parameters."""
        return self

    def prepare(self, k: Key) -> Key:
        """The keys as they are: nothing can be computed ahead."""
        return k


@dataclass(frozen=True, config=PART)
class Dot(Product):
    """Plain dot product.  Its variance grows with the width, and softmax gets sharper with it."""

    name: ClassVar[str] = "dot"
    scale: ClassVar[float | None] = 1.0
    unprojected_by_default: ClassVar[bool] = True
    formula: ClassVar[str] = "q·k"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"

    def __call__(self, q: Query, prepared: Key, at: TokenPositions | None = None) -> Logits:
        """Scores of every query with every key."""
        return dot(q, prepared)


@dataclass(frozen=True, config=PART)
class ScaledDot(Product):
    """Dot product divided by the square root of the width, so that its variance is 1 for unit-variance
    inputs.
    """

    name: ClassVar[str] = "scaled_dot"
    scale: ClassVar[float | None] = None
    unprojected_by_default: ClassVar[bool] = False
    formula: ClassVar[str] = "q·k / sqrt(D)"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"

    def __call__(self, q: Query, prepared: Key, at: TokenPositions | None = None) -> Logits:
        """Scores of every query with every key."""
        return scaled_dot(q, prepared)
