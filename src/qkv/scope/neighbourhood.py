"""The neighbourhood scope: the cells of a grid around the cell of the query."""

from typing import Any, ClassVar

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Allow, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def neighbourhood(positions: TokenPositions, width: int, radius: int) -> Allow:
    """Compute allow = (max(|y_p - y_s|, |x_p - x_s|) <= radius) for a query in cell p and a key in cell s.

    Cells are numbered row by row: cell s is in row y_s = s // width and column x_s = s mod width.  As in
    Hassani et al. 2023, eq. 1 and 2, but the square is cut off at the border instead of shifted inwards.

    Args:
        positions: The cells of queries and keys.
        width: The number of columns of the grid.
        radius: The largest Chebyshev distance between the two cells.

    Returns:
        The mask [B or 1, 1, T, S].
    """
    queries, keys = positions.queries[:, None, :, None], positions.keys[:, None, None, :]
    rows = keys.div(width, rounding_mode="floor") - queries.div(width, rounding_mode="floor")
    columns = keys.remainder(width) - queries.remainder(width)
    return (rows.abs() <= radius) & (columns.abs() <= radius)


@dataclass(frozen=True, config=PART)
class Neighbourhood(Part):
    """The keys in a square of a grid: at most `radius` rows and columns from the cell of the query.

    Queries and keys are the cells of a grid, row by row.  The square is cut off at the border of the grid,
    where a query sees fewer keys.  A hidden cell (`keep`) keeps its place in the grid.

    Args:
        height: The number of rows of the grid.
        width: The number of columns of the grid.
        radius: How many rows and columns the square reaches to every side.

    References:
        Hassani et al. 2023 (Neighborhood Attention Transformer), without its shift of the square at borders;
        Parmar et al. 2018 (Image Transformer), for the causal order row by row.

    Example:
        >>> x = torch.zeros(1, 1, 4, 2)
        >>> qkv.attend(x, x, x, scope=qkv.Neighbourhood(height=1, width=4, radius=1)).weights[0, 0]
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.3333, 0.3333, 0.3333, 0.0000],
                [0.0000, 0.3333, 0.3333, 0.3333],
                [0.0000, 0.0000, 0.5000, 0.5000]])
        >>> x = torch.zeros(1, 1, 128 * 128, 16)
        >>> qkv.attention(x, x, x, scope=qkv.Neighbourhood(128, 128, radius=3)).shape
        torch.Size([1, 1, 16384, 16])
    """

    height: PositiveInt
    width: PositiveInt
    radius: PositiveInt

    axis: ClassVar[str] = "scope"
    name: ClassVar[str] = "neighbourhood"
    formula: ClassVar[str] = "|y_p - y_s| <= radius and |x_p - x_s| <= radius, cell s = y_s width + x_s"
    paper: ClassVar[str] = "Hassani et al. 2023, without its shift at borders"
    learns: ClassVar[bool] = False
    normalised: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    is_global: ClassVar[bool] = False
    reweights: ClassVar[bool] = False
    supports_causal: ClassVar[bool] = True
    reach: ClassVar[tuple[int, int] | None] = None
    example_options: ClassVar[dict[str, Any]] = {"height": 4, "width": 6, "radius": 1}

    @property
    def grid(self) -> tuple[int, int, int]:
        """Height, width and radius."""
        return self.height, self.width, self.radius

    def __call__(self, q: Query, positions: TokenPositions) -> tuple[Allow, None]:
        """Compute the mask of the square around every query.

        Args:
            q: Not used.
            positions: The cells of queries and keys.

        Returns:
            The mask [B or 1, 1, T, S], and None: the weights do not change.
        """
        return neighbourhood(positions, self.width, self.radius), None
