"""The recipe of a classifier of pictures."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from qkv.data import BatchConfig
from qkv.data.generated.shapes import ShapesConfig
from qkv.data.pictures import AugmentationConfig, PictureConfig
from qkv.model.patches import PatchConfig, check_picture_size
from qkv.model.vision_classifier import CNNClassifierConfig, VisionClassifierConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.classify.recipe import ClassificationObjectiveConfig, ClassificationValidation
from qkv.task.data_source import check_one_source
from qkv.train import TrainConfig

ShapesLabel = Literal["colour", "shape", "place", "object"]


class LabelledFolder(Strict):
    """Where labelled pictures come from.

    Args:
        pictures: a folder or a zip file; the folder that a picture is in names its class.
    """

    pictures: str


class LabelledPicturesConfig(Strict):
    """The labelled pictures of a recipe: files of your own, or generated shapes.

    Args:
        train: the pictures to train on.
        valid: held-out pictures; null takes some of the training pictures.
        test: what `qkv evaluate` takes when no folder is named; null: the held-out pictures.
        shapes: generate pictures of shapes instead of reading files; they have their own held-out pictures.
        label: what is asked about the smallest of the shapes: its colour, its shape, its place relative to
            the next larger one, or its colour and shape (object).
        holdout: training pictures to hold out where valid is null (at most a tenth).
        labels: train on this many pictures only, as many of each class; null: on all.
        pictures: how picture files become pixels.
    """

    train: LabelledFolder | None = None
    valid: LabelledFolder | None = None
    test: LabelledFolder | None = None
    shapes: ShapesConfig | None = None
    label: ShapesLabel = "shape"
    holdout: PositiveInt = 1000
    labels: PositiveInt | None = None
    pictures: PictureConfig = PictureConfig(size=32)

    @property
    def size(self) -> int:
        """The side of the pictures in pixels."""
        return self.pictures.size if self.shapes is None else self.shapes.size

    @model_validator(mode="after")
    def _has_one_source(self) -> "LabelledPicturesConfig":
        check_one_source(self, ("shapes",), "pictures")
        return self


class PictureBatchConfig(Strict):
    """The size of an update.

    Args:
        pictures: pictures of a micro-batch, over all processes.
        accumulate: micro-batches per update.
    """

    pictures: PositiveInt = 64
    accumulate: PositiveInt = 1

    @property
    def plan(self) -> BatchConfig:
        """The same for rows of one position each."""
        return BatchConfig(batch_tokens=self.pictures, accumulate=self.accumulate)


class PictureClassificationRecipe(Recipe):
    """Everything that training a classifier of pictures needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task; `classify` with pictures selects it too.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the labelled pictures.
        augment: random changes of the training pictures.
        batch: the size of an update.
        model: the encoder of pictures and its pooling.
        train: how the model is trained.
        objective: what is minimised.
        validation: which score decides.
    """

    task: Literal["classify-pictures"] = "classify-pictures"
    data: LabelledPicturesConfig
    augment: AugmentationConfig = AugmentationConfig()
    batch: PictureBatchConfig = PictureBatchConfig()
    model: VisionClassifierConfig = CNNClassifierConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: ClassificationObjectiveConfig = ClassificationObjectiveConfig()
    validation: ClassificationValidation = ClassificationValidation()

    @model_validator(mode="after")
    def _pictures_fit(self) -> "PictureClassificationRecipe":
        has_class_token = isinstance(self.model, PatchConfig) and self.model.pool == "first"
        check_picture_size(self.data.size, self.model, more_positions=int(has_class_token))
        return self

    @model_validator(mode="after")
    def _flip_keeps_places(self) -> "PictureClassificationRecipe":
        if self.augment.flip and self.data.shapes is not None and self.data.label == "place":
            raise ValueError("augment.flip exchanges left and right, which data.label: place asks for")
        return self
