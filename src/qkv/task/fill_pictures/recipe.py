"""The recipe of masked-patch prediction."""

from typing import Literal

from pydantic import Field, model_validator

from qkv.data.pictures import AugmentationConfig
from qkv.model.masked_pictures import VisionEncoderConfig, compute_cell_grid
from qkv.model.patches import PatchConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.classify_pictures.recipe import PictureBatchConfig
from qkv.task.unlabelled_pictures import UnlabelledPicturesConfig
from qkv.train import TrainConfig


class HidingConfig(Strict):
    """Which cells are hidden.  A cell is a patch, or the square of a convolutional network's grid cell.

    Args:
        share: the share of the cells of every picture that is hidden.
    """

    share: float = Field(default=0.6, gt=0, lt=1)


class FillPicturesRecipe(Recipe):
    """Everything that training on hidden patches needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task; `fill` with pictures selects it too.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the pictures.
        augment: random changes of the training pictures.
        batch: the size of an update.
        model: the encoder of pictures.
        train: how the model is trained.
        objective: which cells are hidden.
    """

    task: Literal["fill-pictures"] = "fill-pictures"
    data: UnlabelledPicturesConfig
    augment: AugmentationConfig = AugmentationConfig()
    batch: PictureBatchConfig = PictureBatchConfig()
    model: VisionEncoderConfig = PatchConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: HidingConfig = HidingConfig()

    @property
    def monitor(self) -> str:
        """The score that decides which weights are best."""
        return "mse"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the cells of a picture."""
        return compute_cell_grid(self.data.size, self.model)

    @model_validator(mode="after")
    def _pictures_fit(self) -> "FillPicturesRecipe":
        compute_cell_grid(self.data.size, self.model)
        return self
