"""What a user passes to a captioner: pictures, or grids of annotation vectors if its encoder reads those."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from qkv.data.pictures.grids import read_grids
from qkv.errors import BadData
from qkv.model.captioner_encoder import GridConfig
from qkv.task.caption.recipe import CaptionRecipe
from qkv.task.picture_inputs import Picture, list_pictures, read_picture


class NamedGrid(NamedTuple):
    """A grid of a file.

    Args:
        name: the name of its picture.
        vectors: a vector for every cell.
    """

    name: str
    vectors: Float[np.ndarray, "Y X C"]


Input = Picture | NamedGrid


def list_inputs(pictures: Picture | Iterable[Picture], recipe: CaptionRecipe) -> list[Input]:
    """The pictures as a list; where the encoder reads grids, a file becomes all grids in it.

    Args:
        pictures: paths or pixels; or paths of files of grids, or grids.
        recipe: the recipe of the captioner.

    Raises:
        BadData: a file of grids cannot be read.
    """
    several = list_pictures(pictures)
    if not isinstance(recipe.model.encoder, GridConfig):
        return list[Input](several)
    inputs: list[Input] = []
    for each in several:
        if isinstance(each, str | Path):
            grids = read_grids(each)
            inputs += map(NamedGrid, grids.names, grids.vectors)
        else:
            inputs.append(each)
    return inputs


def name_input(each: Input) -> str | None:
    """The path of a picture, or the name of a grid; None of pixels."""
    if isinstance(each, NamedGrid):
        return each.name
    return None if isinstance(each, np.ndarray) else str(each)


def read_input(each: Input, recipe: CaptionRecipe) -> np.ndarray:
    """The pixels of a picture, or the vectors of a grid.

    Args:
        each: one of `list_inputs`.
        recipe: the recipe of the captioner.

    Raises:
        BadData: it cannot be used.
    """
    encoder = recipe.model.encoder
    if not isinstance(encoder, GridConfig):
        assert not isinstance(each, NamedGrid)
        return read_picture(each, recipe.data.size)
    grid = each.vectors if isinstance(each, NamedGrid) else each
    assert isinstance(grid, np.ndarray)
    if grid.ndim != 3 or grid.shape[2] != encoder.width or not np.issubdtype(grid.dtype, np.floating):
        raise BadData(
            f"grids of this model are floating-point [rows, columns, {encoder.width}], got {grid.dtype} "
            f"{list(grid.shape)}: compute them as for the training"
        )
    return grid
