"""The recipe of a classifier."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data import BatchConfig
from qkv.data.generated.listops import SYMBOLS, ListOpsData
from qkv.data.tokens import CONTROL
from qkv.model.classifier import ClassifierConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.data_source import check_one_source
from qkv.task.texts import VocabularyConfig
from qkv.train import TrainConfig

ModelConfig = Annotated[ClassifierConfig | HierarchicalConfig, Field(discriminator="kind")]
MOST_CHARACTERS = 5  # of an expression for each of its symbols, with the space between them


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
    """The labelled texts of a recipe: files of your own, or generated ones.

    Args:
        train: the texts to train on.
        valid: held-out texts; null takes some of the training texts.
        test: what `qkv evaluate` takes when no file is named; null: the held-out texts.
        holdout: training texts to hold out where valid is null (at most a tenth).
        labels: train on this many texts only, as many of each class; null: on all.
        long_texts: what happens to a text of more than batch.max_length tokens.  cut: its end is not read.
            windows: it is read in pieces of that length, each of which counts as a text in training; the
            probabilities of its pieces are averaged.
        listops: generate nested operations on lists of digits instead of reading files; the class of an
            expression is its value.
    """

    train: LabelledData | None = None
    valid: LabelledData | None = None
    test: LabelledData | None = None
    holdout: PositiveInt = 1000
    labels: PositiveInt | None = None
    long_texts: Literal["cut", "windows"] = "cut"
    listops: ListOpsData | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> "LabelledConfig":
        check_one_source(self, ("listops",), "documents")
        return self


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
        attention: held-out examples on which entropy, diagonality and coverage of every attention are
            measured at every validation, long texts left out; 0: none.
    """

    monitor: Literal["accuracy", "nll"] = "accuracy"
    attention: int = Field(default=0, ge=0)


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

    @model_validator(mode="after")
    def _windows_fit(self) -> "ClassificationRecipe":
        if self.data.long_texts == "windows" and isinstance(self.model, HierarchicalConfig):
            raise ValueError(
                "data.long_texts=windows would cut between any two tokens, and model.kind=hierarchical reads "
                "sentences: raise batch.max_length and model.max_sentences instead"
            )
        return self

    @model_validator(mode="after")
    def _expressions_fit(self) -> "ClassificationRecipe":
        listops, is_word = self.data.listops, self.tokens.kind == "word"
        if listops is None:
            return self
        if is_word and (self.tokens.vocab < len(SYMBOLS) + len(CONTROL) or self.tokens.min_count > 1):
            raise ValueError(
                f"data.listops has {len(SYMBOLS)} symbols, and each must be a token: set tokens.vocab to at "
                f"least {len(SYMBOLS) + len(CONTROL)}, and leave out tokens.min_count"
            )
        longest = listops.max_length * (1 if is_word else MOST_CHARACTERS)
        if self.batch.max_length < longest:
            raise ValueError(
                f"batch.max_length={self.batch.max_length} would cut expressions, and a part has another "
                f"value: raise it to {longest}, or lower data.listops.max_length"
            )
        return self
