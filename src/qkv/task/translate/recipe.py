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
from qkv.task.data_source import check_one_source
from qkv.task.transfer import TransferConfig
from qkv.train import AttentionTerms, TrainConfig

ModelConfig = Annotated[TransformerConfig | RNNConfig, Field(discriminator="kind")]


class DataConfig(Strict):
    """Where the pairs come from: files, or generated phrases.

    Args:
        train: the pairs to train on.
        valid: held-out pairs; null holds out some of the training pairs.
        test: the pairs that `qkv evaluate` scores by default; null takes `valid`.
        holdout: training pairs to hold out if `valid` is null, at most 5 %.
        phrases: generate phrases instead of reading files.
    """

    train: ParallelData | None = Field(default=None)
    valid: ParallelData | None = Field(default=None)
    test: ParallelData | None = Field(default=None)
    holdout: PositiveInt = Field(default=500)
    phrases: PhraseData | None = Field(default=None)

    @model_validator(mode="after")
    def _has_one_source(self) -> "DataConfig":
        check_one_source(self, ("phrases",), "pairs")
        return self


class ValidationConfig(Strict):
    """What is measured on held-out pairs while training.

    Args:
        monitor: the score that decides which weights are best.
        decode: held-out sentences that are translated greedily, for BLEU and exact match; 0 is none.
        samples: how many of those are printed.
        tokenize: sacrebleu's tokeniser for BLEU; auto goes by the script of the references; none is for text
            that is tokenised already.
        lowercase: scores ignore letter case; they always do with tokens.lowercase.
        plain_spaces: scores treat no-break spaces (U+00A0, U+202F) as plain ones; they always do with
            tokens.plain_spaces.
        attention: held-out sentences on which entropy, diagonality and coverage of every attention are
            measured, for metrics.jsonl; 0 is none.
    """

    monitor: Literal["nll", "bleu", "exact"] = Field(default="nll")
    decode: int = Field(default=200, ge=0)
    samples: int = Field(default=2, ge=0)
    tokenize: str = Field(
        default="auto",
    )
    lowercase: bool = Field(default=False)
    plain_spaces: bool = Field(
        default=False,
    )
    attention: int = Field(default=0, ge=0)


class ObjectiveConfig(AttentionTerms):
    """The loss: cross-entropy with label smoothing, and terms of the attention.

    Args:
        smoothing: label smoothing, the share of the probability that is spread over all classes.
    """

    smoothing: float = Field(default=0.1, ge=0, lt=1)


class TranslationRecipe(Recipe):
    """Everything that training a translator needs.  Every key but `data` has a default.

    When training starts, `fill_defaults` sets keys that were left out to values that follow from the data.

    Args:
        data: where the pairs come from: files, or generated phrases.
        tokens: how text is cut into tokens.
        batch: the size of an update.
        model: the model, of one of several kinds.
        train: how to train.
        objective: the loss.
        transfer: minimise the mismatch with the attention of the run that `--from` names instead; null: no.
        validation: what is measured on held-out pairs while training.
        decode: how translations are searched.
    """

    task: Literal["translate"] = "translate"
    data: DataConfig
    tokens: TokenizerConfig = TokenizerConfig()
    batch: BatchConfig = BatchConfig()
    model: ModelConfig = TransformerConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: ObjectiveConfig = ObjectiveConfig()
    transfer: TransferConfig | None = None
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
        remaining = {key: value for key, value in train.items() if key != "smoothing"}
        return {**raw, "train": remaining, "objective": {**objective, "smoothing": train["smoothing"]}}
