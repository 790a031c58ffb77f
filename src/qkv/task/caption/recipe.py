"""The recipe of a captioner."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data.batching import BatchConfig
from qkv.data.generated.shapes import ShapesConfig
from qkv.data.pictures import AugmentationConfig, CaptionConfig, PictureConfig
from qkv.data.pictures.grids import is_grid_file
from qkv.decode import SearchConfig
from qkv.model.captioner_config import CaptionerConfig, RecurrentCaptionerConfig
from qkv.model.captioner_encoder import GridConfig
from qkv.model.patches import PatchConfig
from qkv.model.vision import CNNConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.data_source import check_one_source
from qkv.task.texts import VocabularyConfig
from qkv.train import TrainConfig
from qkv.train.objective.captioning import CaptioningTerms

SIDES = ("left", "right", "gauche", "droite")


class CaptionedFiles(Strict):
    """Where pictures and their captions come from.

    Args:
        pictures: a folder or a zip file of pictures; for model.encoder of kind grid, a .npz or .safetensors
            file that holds an array [rows, columns, width] for every picture, by the name of the picture.
        captions: where their captions are.
    """

    pictures: str
    captions: CaptionConfig


class CaptionDataConfig(Strict):
    """The captioned pictures of a recipe: files of your own, or generated shapes.

    Args:
        train: the pictures to train on.
        valid: held-out pictures; null takes some of the training pictures.
        test: what `qkv evaluate` takes when no files are named; null: the held-out pictures.
        shapes: generate pictures of shapes and sentences about them instead of reading files; they have their
            own held-out pictures.
        holdout: training pictures to hold out where valid is null (at most a tenth).
        pictures: how picture files become pixels.
    """

    train: CaptionedFiles | None = None
    valid: CaptionedFiles | None = None
    test: CaptionedFiles | None = None
    shapes: ShapesConfig | None = None
    holdout: PositiveInt = 500
    pictures: PictureConfig = PictureConfig()

    @property
    def size(self) -> int:
        """The side of the pictures in pixels."""
        return self.pictures.size if self.shapes is None else self.shapes.size

    @property
    def files(self) -> list[CaptionedFiles]:
        """All files that are named."""
        return [files for files in (self.train, self.valid, self.test) if files is not None]

    @model_validator(mode="after")
    def _has_one_source(self) -> "CaptionDataConfig":
        check_one_source(self, ("shapes",), "pictures")
        return self


class CaptionAugmentationConfig(AugmentationConfig):
    """How training pictures are changed at random; held-out pictures are not.

    Args:
        flip: mirror half of the pictures whose caption names no side.
        sides: words that name a side; pictures with such a caption are never mirrored.
    """

    sides: tuple[str, ...] = SIDES


class CaptionBatchConfig(Strict):
    """The size of an update, and the longest caption.

    Args:
        pictures: captions of a micro-batch, each with its picture, over all processes.
        accumulate: micro-batches per update.
        pool: captions are sorted by length within pools of about this many batches.
        max_length: longest caption in tokens; longer ones are left out of the training.
    """

    pictures: PositiveInt = 32
    accumulate: PositiveInt = 1
    pool: PositiveInt = 50
    max_length: PositiveInt = 50

    @property
    def plan(self) -> BatchConfig:
        """The same for rows of one position each."""
        return BatchConfig(batch_tokens=self.pictures, accumulate=self.accumulate, pool=self.pool)


class CaptionObjectiveConfig(CaptioningTerms):
    """The loss: cross-entropy with label smoothing, and terms of the attention.

    Args:
        smoothing: label smoothing, the share of the probability that is spread over all classes.
    """

    smoothing: float = Field(default=0.1, ge=0, lt=1)


class CaptionValidation(Strict):
    """What is measured on held-out pictures while training.

    Args:
        monitor: the score that decides which weights are best.
        decode: held-out pictures that are captioned greedily, for BLEU, CIDEr-D and exact match; 0 is none.
        samples: how many of these captions are printed.
        attention: held-out pictures on which entropy and coverage of every attention are measured at every
            validation, as the model captions them greedily; 0: none.
    """

    monitor: Literal["nll", "bleu4", "cider", "exact"] = "nll"
    decode: int = Field(default=200, ge=0)
    samples: int = Field(default=2, ge=0)
    attention: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _can_be_monitored(self) -> "CaptionValidation":
        if self.monitor != "nll" and not self.decode:
            raise ValueError(
                f"validation.monitor is '{self.monitor}', which needs captions, but validation.decode is 0: "
                "set it to a number of pictures, or monitor 'nll'"
            )
        return self


class CaptionRecipe(Recipe):
    """Everything that training a captioner needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the pictures and their captions.
        augment: random changes of the training pictures.
        tokens: how captions become tokens.
        batch: the size of an update, and the longest caption.
        model: the captioner, of one of several kinds.
        train: how the model is trained.
        objective: the loss.
        validation: what is measured on held-out pictures while training.
        decode: how captions are searched.
    """

    task: Literal["caption"] = "caption"
    data: CaptionDataConfig
    augment: CaptionAugmentationConfig = CaptionAugmentationConfig()
    tokens: VocabularyConfig = VocabularyConfig(kind="word", lowercase=True)
    batch: CaptionBatchConfig = CaptionBatchConfig()
    model: CaptionerConfig = RecurrentCaptionerConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: CaptionObjectiveConfig = CaptionObjectiveConfig()
    validation: CaptionValidation = CaptionValidation()
    decode: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _pictures_fit(self) -> "CaptionRecipe":
        size, encoder = self.data.size, self.model.encoder
        if isinstance(encoder, CNNConfig) and size < encoder.reduction:
            raise ValueError(
                f"pictures of {size} pixels are smaller than {encoder.reduction}, by which "
                "model.encoder.stride and the stages of model.encoder.widths divide them: use larger "
                "pictures or fewer stages"
            )
        if isinstance(encoder, CNNConfig):
            self._check_cell_count((-(-size // encoder.reduction)) ** 2)
        if isinstance(encoder, PatchConfig):
            if size % encoder.patch:
                raise ValueError(
                    f"pictures of {size} pixels cannot be split into patches of model.encoder.patch="
                    f"{encoder.patch}: use a multiple"
                )
            self._check_cell_count((size // encoder.patch) ** 2)
        return self

    @model_validator(mode="after")
    def _grids_fit(self) -> "CaptionRecipe":
        reads_grids = isinstance(self.model.encoder, GridConfig)
        if reads_grids and self.data.shapes is not None:
            raise ValueError("data.shapes draws pictures: choose a model.encoder of kind cnn or patches")
        for files in self.data.files:
            if is_grid_file(files.pictures) != reads_grids:
                raise ValueError(
                    f"{files.pictures} does not fit model.encoder of kind {self.model.encoder.kind}: .npz "
                    "and .safetensors files hold grids, and kind: grid reads nothing else"
                )
        if reads_grids and (self.augment.crop or self.augment.flip):
            raise ValueError("augment changes pictures, and model.encoder reads grids: leave it out")
        return self

    @model_validator(mode="after")
    def _captions_fit(self) -> "CaptionRecipe":
        limit = self.model.length_limits.target
        if limit is not None and self.batch.max_length + 1 > limit.positions:
            raise ValueError(
                f"batch.max_length={self.batch.max_length} and the start symbol need more positions than "
                f"{limit.key}={limit.positions} holds: raise {limit.key} or lower batch.max_length"
            )
        return self

    @model_validator(mode="after")
    def _boxes_exist(self) -> "CaptionRecipe":
        if self.objective.supervise > 0 and self.data.shapes is None:
            raise ValueError(
                "objective.supervise needs the boxes of objects, which only data.shapes has: set it to 0"
            )
        if self.augment.flip and self.data.shapes is not None and not {*SIDES} <= {*self.augment.sides}:
            raise ValueError(
                "augment.flip exchanges left and right, which the sentences about shapes name: leave out "
                "augment.sides, or set augment.flip: false"
            )
        return self

    def _check_cell_count(self, cells: int) -> None:
        limit = self.model.length_limits.source
        if limit is not None and cells > limit.positions:
            raise ValueError(
                f"a grid of {cells} cells needs more positions than {limit.key}={limit.positions} holds: "
                f"raise {limit.key}, or divide the pictures into fewer cells"
            )
