"""How well attention points: whether the peak of a word's weights lies in the box of what the word names."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from qkv.data.pictures.boxes import Boxes, CellCentres, find_cells_in_box
from qkv.errors import BadData


class PointingCounts(NamedTuple):
    """Sums over words that name an object; those of several pictures can be added with `add_counts`.

    Args:
        words: how many there are.
        peaks: how many of them have their largest weight on a cell in the box.
        mass: the sum of the weights on cells in the box.
        chance: the sum of the shares of all cells that are in the box: the mass of uniform weights.
    """

    words: int = 0
    peaks: int = 0
    mass: float = 0.0
    chance: float = 0.0

    def compute_scores(self) -> dict[str, float]:
        """Pointing accuracy, attention mass and their value by chance in percent; NaN without words."""
        sums = {"pointing": self.peaks, "attention_mass": self.mass, "pointing_chance": self.chance}
        return {
            name: 100 * total / self.words if self.words else float("nan") for name, total in sums.items()
        }


def count_pointing(
    weights: Float[np.ndarray, "T L"],
    named: Sequence[int | None],
    boxes: Boxes,
    centres: CellCentres,
) -> PointingCounts:
    """Compare the attention of a caption's words with the boxes of the objects that they name.

    Args:
        weights: of every word over the cells, row by row from the top left; averaged over heads.
        named: for every word the number of the object that it names, or None.
        boxes: left, top, right and bottom of every object, as fractions of the picture.
        centres: where the cells of the grid are.

    Returns:
        The counts of this picture.

    Raises:
        BadData: the weights have another shape, or a box is empty or outside the picture.

    Example:
        >>> import numpy as np
        >>> weights = np.array([[0.25, 0.25, 0.25, 0.25], [0.0, 0.1, 0.7, 0.2]])
        >>> from qkv.data.pictures.boxes import make_even_centres
        >>> centres, boxes = make_even_centres(2, 2), np.array([[0.0, 0.5, 0.5, 1.0]])
        >>> count_pointing(weights, [None, 0], boxes, centres).compute_scores()
        {'pointing': 100.0, 'attention_mass': 70.0, 'pointing_chance': 25.0}
    """
    height, width = len(centres.rows), len(centres.columns)
    if weights.shape != (len(named), height * width):
        raise BadData(
            f"weights have the shape {list(weights.shape)}, but there are {len(named)} words and {height} × "
            f"{width} cells: give one row per word and one column per cell"
        )
    cells = [find_cells_in_box(box, centres) for box in boxes]
    pairs = [(row, cells[number]) for row, number in zip(weights, named, strict=True) if number is not None]
    return PointingCounts(
        len(pairs),
        sum(bool(inside[row.argmax()]) for row, inside in pairs),
        float(sum(row[inside].sum() for row, inside in pairs)),
        float(sum(inside.mean() for _, inside in pairs)),
    )


def add_counts(counts: Sequence[PointingCounts]) -> PointingCounts:
    """The counts of several pictures together.

    Args:
        counts: those of every picture.
    """
    return (
        PointingCounts(*(sum(values) for values in zip(*counts, strict=True))) if counts else PointingCounts()
    )
