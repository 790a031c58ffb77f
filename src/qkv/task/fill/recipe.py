"""The recipe of a masked language model."""

from typing import Literal

from pydantic import Field, model_validator

from qkv.data.streams import StreamConfig
from qkv.model.encoder import EncoderConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.texts import TextConfig, VocabularyConfig
from qkv.train import TrainConfig


class MaskingConfig(Strict):
    """Which tokens are hidden, and what is minimised.

    Args:
        rate: probability of every token, or word, to be chosen.
        whole_words: choose all pieces of a word together (bpe).
        smoothing: label smoothing: this much is spread over all classes.
    """

    rate: float = Field(default=0.15, gt=0, lt=1)
    whole_words: bool = False
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class FillValidation(Strict):
    """What else is measured on held-out text while training.

    Args:
        attention: held-out segments on which entropy, diagonality and coverage of every attention are
            measured at every validation, nothing hidden; 0: none.
    """

    attention: int = Field(default=0, ge=0)


class FillRecipe(Recipe):
    """Everything that training a masked language model needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the text.
        tokens: how text becomes tokens.
        batch: how the text is cut into segments.
        model: the encoder.
        train: how the model is trained.
        objective: which tokens are hidden, and what is minimised.
        validation: what else is measured on held-out text.
    """

    task: Literal["fill"] = "fill"
    data: TextConfig
    tokens: VocabularyConfig = VocabularyConfig()
    batch: StreamConfig = StreamConfig()
    model: EncoderConfig = EncoderConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: MaskingConfig = MaskingConfig()
    validation: FillValidation = FillValidation()

    @model_validator(mode="after")
    def _fits(self) -> "FillRecipe":
        limit = self.model.length_limits.source
        if limit is not None and self.batch.length > limit.positions:
            raise ValueError(
                f"batch.length={self.batch.length} is more than {limit.key}={limit.positions} holds: raise "
                "it, or shorten the segments"
            )
        if self.batch.carry:
            raise ValueError("batch.carry: an encoder has no state to carry: leave it out")
        if self.objective.whole_words and self.tokens.kind != "bpe":
            raise ValueError("objective.whole_words needs tokens.kind: bpe; leave it out or change the kind")
        return self
