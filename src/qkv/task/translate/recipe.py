"""The recipe of a translator."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data import BatchConfig, ParallelData, TokenizerConfig
from qkv.data.generated.phrases import PhraseData
from qkv.decode import SearchConfig
from qkv.model.seq2seq import RNNConfig
from qkv.model.transformer import TransformerConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.train import AttentionTerms, TrainConfig

ModelConfig = Annotated[TransformerConfig | RNNConfig, Field(discriminator="kind")]


class DataConfig(Strict):
    """Where the pairs come from: files of your own, or generated phrases."""

    train: ParallelData | None = Field(default=None, description="the pairs to train on")
    valid: ParallelData | None = Field(
        default=None, description="held-out pairs; null takes some of the training pairs"
    )
    test: ParallelData | None = Field(
        default=None, description="what `qkv evaluate` takes when no files are named"
    )
    holdout: PositiveInt = Field(
        default=500, description="training pairs to hold out where valid is null (at most 5 %)"
    )
    phrases: PhraseData | None = Field(default=None, description="generate phrases instead of reading files")

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.train is None) == (self.phrases is None):
            raise ValueError("give either 'train', files of your own, or 'phrases', generated ones")
        return self


class ValidationConfig(Strict):
    """What is looked at while training."""

    monitor: Literal["nll", "bleu", "exact"] = Field(
        default="nll", description="the score that decides which weights are best"
    )
    decode: int = Field(
        default=200, ge=0, description="held-out sentences translated greedily for BLEU and exact match"
    )
    samples: int = Field(default=2, ge=0, description="how many of those are printed")
    tokenize: str = Field(
        default="auto",
        description="sacrebleu's tokeniser; auto: by the script of the references; none for text that is "
        "tokenised already",
    )
    lowercase: bool = Field(
        default=False, description="scores ignore letter case; they always do where tokens.lowercase"
    )
    plain_spaces: bool = Field(
        default=False,
        description="scores take no-break spaces (U+00A0, U+202F) for plain ones; they always do where "
        "tokens.plain_spaces",
    )


class ObjectiveConfig(AttentionTerms):
    """What is minimised: cross-entropy with label smoothing, and terms for the sake of the attention."""

    smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="label smoothing: this much is spread over all classes"
    )


class TranslationRecipe(Recipe):
    """Everything that training a translator needs.  Every key has a default but `data`.

    When training starts, `defaults` gives the keys that were left out values that follow from the data.
    """

    task: Literal["translate"] = "translate"
    data: DataConfig
    tokens: TokenizerConfig = TokenizerConfig()
    batch: BatchConfig = BatchConfig()
    model: ModelConfig = TransformerConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: ObjectiveConfig = ObjectiveConfig()
    validation: ValidationConfig = ValidationConfig()
    decode: SearchConfig = SearchConfig()

    @model_validator(mode="before")
    @classmethod
    def _moved_smoothing(cls, raw: Any) -> Any:
        """Accept `train.smoothing`, where recipes and runs of version 0.1 have `objective.smoothing`."""
        train = raw.get("train") if isinstance(raw, dict) else None
        if not isinstance(train, dict) or "smoothing" not in train:
            return raw
        objective = raw.get("objective") or {}
        if not isinstance(objective, dict):
            return raw
        if "smoothing" in objective:
            raise ValueError("both train.smoothing and objective.smoothing are set: keep objective.smoothing")
        kept = {key: value for key, value in train.items() if key != "smoothing"}
        return {**raw, "train": kept, "objective": {**objective, "smoothing": train["smoothing"]}}
