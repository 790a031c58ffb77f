"""The recipe of a generative adversarial network."""

from typing import Literal

from pydantic import Field, model_validator

from qkv.data.pictures import AugmentationConfig
from qkv.model.gan import GANConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.classify_pictures.recipe import PictureBatchConfig
from qkv.task.unlabelled_pictures import UnlabelledPicturesConfig
from qkv.train import TrainConfig


class AdversarialConfig(Strict):
    """How the two networks are trained against each other.

    Args:
        rate_ratio: the learning rate of the discriminator as a multiple of the generator's, `train.lr`.
    """

    rate_ratio: float = Field(default=4.0, gt=0, le=1000)


class SampleValidation(Strict):
    """What is done with the present networks at every validation.

    Args:
        features: the run directory of a classifier of pictures of the same size, by whose features samples
            are compared with held-out pictures ("fid"), and the best weights kept; null keeps the last ones.
        samples: pictures of the sheet that is written into the folder `samples` of the run; 0 writes none.
    """

    features: str | None = None
    samples: int = Field(default=64, ge=0, le=10_000)


class GeneratePicturesRecipe(Recipe):
    """Everything that training a generator of pictures needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task; `generate` with pictures selects it too.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the pictures.
        augment: random changes of the training pictures.
        batch: the size of an update.
        model: the generator and the discriminator.
        train: how the networks are trained; `lr` is the rate of the generator.
        objective: how they are trained against each other.
        validation: the score and the samples.
    """

    task: Literal["generate-pictures"] = "generate-pictures"
    data: UnlabelledPicturesConfig
    augment: AugmentationConfig = AugmentationConfig()
    batch: PictureBatchConfig = PictureBatchConfig()
    model: GANConfig = GANConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: AdversarialConfig = AdversarialConfig()
    validation: SampleValidation = SampleValidation()

    @property
    def monitor(self) -> str:
        """The score that decides which weights are best: without one, the last weights."""
        return "updates" if self.validation.features is None else "fid"

    @model_validator(mode="after")
    def _pictures_fit(self) -> "GeneratePicturesRecipe":
        if self.data.size != self.model.size:
            raise ValueError(
                f"model.widths has {len(self.model.widths)} maps, which makes pictures of {self.model.size} "
                f"pixels, but those of the data have {self.data.size}: give a width for each side from 4 "
                "to the size, such as four for 32"
            )
        return self
