"""The axes of attention weights: a sequence of tokens, or the cells of an image grid."""

from dataclasses import dataclass
from typing import NamedTuple

from qkv.errors import BadData

LARGEST_SIDE = 2**20
WHOLE = (0.0, 0.0, 1.0, 1.0)
FARTHEST = 10.0  # from the picture, in sides of it


@dataclass(frozen=True)
class Grid:
    """An axis whose positions are the height * width cells of a picture, row by row from the top left.

    Args:
        height: rows of cells, at least 1.
        width: columns of cells, at least 1.
        picture: path or file name of the picture that the cells divide; None if there is none. It is stored
            as text and never opened.
        area: what all cells cover: its left, top, right and bottom edge as fractions of the picture. Cells of
            a convolution may begin outside the picture, and end before its edge.

    Raises:
        BadData: for a height or width outside the limits, or an area that is none.
    """

    height: int
    width: int
    picture: str | None = None
    area: tuple[float, float, float, float] = WHOLE

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not 1 <= side <= LARGEST_SIDE or isinstance(side, bool):
                raise BadData(
                    f"a grid has height and width from 1 to {LARGEST_SIDE}, not {self.height} and "
                    f"{self.width}: count the cells in each direction"
                )

        left, top, right, bottom = self.area
        if not (-FARTHEST <= left < right <= FARTHEST and -FARTHEST <= top < bottom <= FARTHEST):
            raise BadData(
                f"the area of a grid is {self.area}: give its left, top, right and bottom edge as fractions "
                "of the picture, each pair in this order"
            )

    def __len__(self) -> int:
        return self.height * self.width


Axis = tuple[str, ...] | Grid


class WeightAxes(NamedTuple):
    """The axes of one array of weights [H, rows, columns].

    Args:
        rows: name of the axis of the queries.
        columns: name of the axis of the keys.
        causal: whether a query attends to no later key. The last query is aligned with the last key, and
            weights above that diagonal are 0.
    """

    rows: str
    columns: str
    causal: bool = False
