"""The window scope: the keys around the position of the query."""

from dataclasses import KW_ONLY
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Allow, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def window(positions: TokenPositions, left: int, right: int) -> Allow:
    """Compute allow = (p - left <= s <= p + right) for a query at p and a key at s.

    Luong et al. 2015, section 3.2, local-m.

    Args:
        positions: The positions of queries and keys.
        left: How many positions the window reaches back.
        right: How many positions the window reaches ahead.

    Returns:
        The mask [B or 1, 1, T, S].
    """
    ahead = positions.keys[:, None, None, :] - positions.queries[:, None, :, None]
    return (ahead >= -left) & (ahead <= right)


@dataclass(frozen=True, config=PART)
class Window(Part):
    """Luong's local-m attention: the keys at most `half_width` positions from the position of the query.

    Args:
        half_width: How many positions the window reaches to either side.
        left: How many positions it reaches back; None takes `half_width`.
        right: How many positions it reaches ahead; None takes `half_width`.

    References:
        Luong et al. 2015, section 3.2.

    Example:
        >>> x = torch.ones(1, 1, 4, 2)
        >>> qkv.attend(x, x, x, scope=qkv.Window(1)).weights[0, 0]
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.3333, 0.3333, 0.3333, 0.0000],
                [0.0000, 0.3333, 0.3333, 0.3333],
                [0.0000, 0.0000, 0.5000, 0.5000]])
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
        """How many positions the window reaches back and ahead."""
        left = self.half_width if self.left is None else self.left
        return left, self.half_width if self.right is None else self.right

    def __call__(self, q: Query, positions: TokenPositions) -> tuple[Allow, None]:
        """Compute the mask of the window.

        Args:
            q: Not used.
            positions: The positions of queries and keys.

        Returns:
            The mask [B or 1, 1, T, S], and None: the weights do not change.
        """
        return window(positions, *self.reach), None
