"""The axes of attention weights: a sequence of tokens, or the cells of an image grid."""

from dataclasses import dataclass
from typing import NamedTuple

from qkv.errors import BadData

LARGEST_SIDE = 2**20


@dataclass(frozen=True)
class Grid:
    """An axis whose positions are the height * width cells of a picture, row by row from the top left.

    Args:
        height: rows of cells, at least 1.
        width: columns of cells, at least 1.
        picture: path or file name of the picture that the cells divide; None if there is none. It is stored
            as text and never opened.

    Raises:
        BadData: for a height or width outside the limits.
    """

    height: int
    width: int
    picture: str | None = None

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not 1 <= side <= LARGEST_SIDE or isinstance(side, bool):
                raise BadData(
                    f"a grid has height and width from 1 to {LARGEST_SIDE}, not {self.height} and "
                    f"{self.width}: count the cells in each direction"
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
