"""The scope that shows the neighbourhood of the query's own position."""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Allow, Dims, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def window(at: TokenPositions, left: int, right: int) -> Allow:
    """allow = p - left <= s <= p + right for a query at p and a key at s.  Luong et al. 2015, section 3.2,
    local-m.
    """
    ahead = at.keys[:, None, None, :] - at.queries[:, None, :, None]
    return (ahead >= -left) & (ahead <= right)


@dataclass(frozen=True, config=PART)
class Window(Part):
    """Luong's local-m: keys at most `half_width` positions from the query's own, itself included.

    left, right: how far it reaches to either side, where that differs from `half_width`.
    """

    half_width: PositiveInt
    _: KW_ONLY
    left: NonNegativeInt | None = None
    right: NonNegativeInt | None = None

    axis: ClassVar[str] = "scope"
    name: ClassVar[str] = "window"
    formula: ClassVar[str] = "p - left <= s <= p + right"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.2"
    learns: ClassVar[bool] = False
    normalised: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    is_global: ClassVar[bool] = False
    reweights: ClassVar[bool] = False
    supports_causal: ClassVar[bool] = True

    @property
    def reach(self) -> tuple[int, int]:
        """How many positions it reaches to the left and to the right."""
        left = self.half_width if self.left is None else self.left
        return left, self.half_width if self.right is None else self.right

    def build(self, dims: Dims) -> Any:
        """The scope itself: it owns no parameters."""
        return self

    def __call__(self, q: Query, at: TokenPositions) -> tuple[Allow, None]:
        """Which keys are near; the weights stay as they are."""
        return window(at, *self.reach), None
