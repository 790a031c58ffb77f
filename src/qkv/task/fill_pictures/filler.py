"""A trained model of hidden patches: pictures with hidden cells in, complete pictures out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from qkv.data.batching import iterate_by_length
from qkv.data.pictures import HiddenBatch, hide_cells
from qkv.errors import BadMask
from qkv.model.patches import join_patches
from qkv.task.classify_pictures.pictures import LabelledPictures, make_dataset, stack_pictures
from qkv.task.fill_pictures.recipe import FillPicturesRecipe
from qkv.task.picture_inputs import read_picture
from qkv.task.unlabelled_pictures import read_unlabelled_test
from qkv.train.objective.reconstruction import Reconstruction

EVALUATION_SEED = 0


class FilledPicture(NamedTuple):
    """A picture whose hidden cells were predicted.

    Args:
        original: the pixels of the picture.
        painted: the pixels that the model sees; hidden cells are grey.
        filled: the same with the predicted pixels in the hidden cells.
        hidden: rows and columns of cells, True where they are hidden.
    """

    original: UInt8[np.ndarray, "S S 3"]
    painted: UInt8[np.ndarray, "S S 3"]
    filled: UInt8[np.ndarray, "S S 3"]
    hidden: Bool[np.ndarray, "h w"]


class PictureFiller:
    """A model of hidden patches with its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        model: the trained model, in evaluation mode.
    """

    def __init__(self, recipe: FillPicturesRecipe, model: Any) -> None:
        self.recipe, self.model = recipe, model

    @property
    def commands(self) -> tuple[str, ...]:
        """The command that fills pictures; `qkv generate RUN --fill`."""
        return ("generate",)

    @torch.inference_mode()
    def fill(
        self,
        picture: str | Path | np.ndarray,
        hidden: np.ndarray | None = None,
        *,
        seed: int = EVALUATION_SEED,
    ) -> FilledPicture:
        """Predict hidden cells of a picture from the others.

        Args:
            picture: the path of a picture file, which is resized, or pixels uint8 [S,S,3].
            hidden: bool [rows, columns], True at the cells to hide; None hides the recipe's share at random.
            seed: decides the cells that are hidden at random.

        Returns:
            The picture with grey and with predicted cells.

        Raises:
            BadData: the picture cannot be used.
            BadMask: `hidden` is not boolean or has another shape.
        """
        pixels, grid = read_picture(picture, self.recipe.data.size), self.recipe.grid
        cells = hide_cells([(seed,)], grid, self.recipe.objective.share)
        if hidden is not None:
            if hidden.dtype != bool or hidden.shape != grid:
                raise BadMask(
                    f"hidden is bool {list(grid)}, True at the cells to hide, got {hidden.dtype} "
                    f"{list(hidden.shape)}: give one value for each cell of {self.model.cell} pixels"
                )
            cells = torch.from_numpy(hidden)[None]
        device = next(self.model.parameters()).device
        predicted = self.model(stack_pictures([pixels]).to(device), cells.to(device))
        scale = self.model.encoder.normalise
        filled = join_patches(predicted, grid, self.model.cell) * scale.sd + scale.mean
        prediction = (filled[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        is_hidden = cells[0].numpy().repeat(self.model.cell, 0).repeat(self.model.cell, 1)[..., None]
        grey = np.where(is_hidden, np.uint8(128), pixels)
        return FilledPicture(pixels, grey, np.where(is_hidden, prediction, pixels), cells[0].numpy())

    @torch.inference_mode()
    def evaluate(
        self,
        pictures: LabelledPictures | None = None,
        *,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """The mean squared error of hidden pixels; the same cells are hidden at every call.

        Args:
            pictures: the pictures; None takes the recipe's test or held-out pictures.
            on_progress: called with the number of pictures that are scored.

        Returns:
            "mse", of normalised pixels: 1 is the error of the mean colour.
        """
        recipe = self.recipe
        pictures = read_unlabelled_test(recipe.data, recipe.train.seed) if pictures is None else pictures
        dataset = make_dataset(pictures, np.zeros(len(pictures), np.int64))
        objective, device = Reconstruction(self.model), next(self.model.parameters()).device
        total, count = 0.0, 0
        for _, batch in iterate_by_length(dataset, recipe.batch.pictures):
            hidden = self._hide(batch.rows)
            loss = objective(HiddenBatch(batch.pictures.to(device), hidden.to(device)))
            total, count = total + float(loss.metrics["mse"]), count + loss.count
            on_progress(count)
        return {"mse": total / count}

    def _hide(self, rows: Tensor) -> Bool[Tensor, "B h w"]:
        keys = [(EVALUATION_SEED, row) for row in rows.tolist()]
        return hide_cells(keys, self.recipe.grid, self.recipe.objective.share)
