"""The recipe of a classifier."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data import BatchConfig
from qkv.model.classifier import ClassifierConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.texts import VocabularyConfig
from qkv.train import TrainConfig

ModelConfig = Annotated[ClassifierConfig | HierarchicalConfig, Field(discriminator="kind")]


class LabelledData(Strict):
    """Where labelled texts come from: JSON objects or tab-separated columns, one text per line.

    Args:
        file: the path; gzip is recognised by content.
        format: jsonl, tsv (label, then text, then perhaps a second text), or auto: by the name.
        text_key: jsonl: the key of the text.
        second_key: jsonl: the key of the second text, for pairs.
        label_key: jsonl: the key of the label, a string or a number.
    """

    file: str
    format: Literal["auto", "jsonl", "tsv"] = "auto"
    text_key: str = "text"
    second_key: str | None = None
    label_key: str = "label"


class LabelledConfig(Strict):
    """The labelled texts of a recipe.

    Args:
        train: the texts to train on.
        valid: held-out texts; null takes some of the training texts.
        test: what `qkv evaluate` takes when no file is named; null: the held-out texts.
        holdout: training texts to hold out where valid is null (at most a tenth).
        labels: train on this many texts only, as many of each class; null: on all.
    """

    train: LabelledData
    valid: LabelledData | None = None
    test: LabelledData | None = None
    holdout: PositiveInt = 1000
    labels: PositiveInt | None = None


class ClassificationObjectiveConfig(Strict):
    """What is minimised: cross-entropy of the label.

    Args:
        smoothing: label smoothing: this much is spread over all classes.
    """

    smoothing: float = Field(default=0.0, ge=0, lt=1)


class ClassificationValidation(Strict):
    """What is looked at while training.

    Args:
        monitor: the score that decides which weights are best.
    """

    monitor: Literal["accuracy", "nll"] = "accuracy"


class ClassificationRecipe(Recipe):
    """Everything that training a classifier needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the labelled texts.
        tokens: how text becomes tokens.
        batch: the size of an update, and the longest text.
        model: the encoder and its pooling, or two of each: of words and of sentences.
        train: how the model is trained.
        objective: what is minimised.
        validation: which score decides.
    """

    task: Literal["classify"] = "classify"
    data: LabelledConfig
    tokens: VocabularyConfig = VocabularyConfig()
    batch: BatchConfig = BatchConfig(batch_tokens=8192, max_length=1000)
    model: ModelConfig = ClassifierConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: ClassificationObjectiveConfig = ClassificationObjectiveConfig()
    validation: ClassificationValidation = ClassificationValidation()

    @model_validator(mode="after")
    def _lengths_fit(self) -> "ClassificationRecipe":
        limit = self.model.length_limits.source
        if limit is not None and self.batch.max_length + 1 > limit.positions:
            raise ValueError(
                f"batch.max_length={self.batch.max_length} and the start symbol need more positions than "
                f"{limit.key}={limit.positions} holds: raise {limit.key} or lower batch.max_length"
            )
        return self
