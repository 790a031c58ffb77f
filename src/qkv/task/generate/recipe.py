"""The recipe of a language model."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data.generated.phrases import PhraseData
from qkv.data.streams import StreamConfig
from qkv.decode.sample import SampleConfig
from qkv.model.language import LanguageModelConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.train import AttentionTerms, TrainConfig

Mode = Literal["segments", "sliding", "carry"]


class TextConfig(Strict):
    """Where the text comes from: files of your own, or generated phrases.

    Args:
        train: text files, plain or gzipped, read one after the other.
        valid: held-out text; null takes the last `holdout` of the training text.
        test: what `qkv evaluate` takes when no file is named; null: the held-out text.
        holdout: the share of the training text to hold out where valid is null.
        phrases: generate phrases instead of reading files; the source language alone is used.
    """

    train: str | list[str] | None = Field(default=None, description="text files, plain or gzipped")
    valid: str | list[str] | None = Field(
        default=None, description="held-out text; null takes the end of the training text"
    )
    test: str | list[str] | None = Field(
        default=None, description="what `qkv evaluate` takes when no file is named; null: the held-out text"
    )
    holdout: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training text to hold out where valid is null"
    )
    phrases: PhraseData | None = Field(default=None, description="generate phrases instead of reading files")

    @model_validator(mode="after")
    def _has_one_source(self) -> "TextConfig":
        if (self.train is None) == (self.phrases is None):
            raise ValueError("give either 'train', files of your own, or 'phrases', generated ones")
        return self


class VocabularyConfig(Strict):
    """How text becomes tokens.

    Args:
        kind: byte: 256 tokens and no vocabulary to learn; char: characters; word: words between spaces;
            bpe: word pieces.
        vocab: the largest vocabulary, the 4 control tokens included (char, word and bpe).
        lowercase: read all text in lower case.
        min_count: leave out words seen less often (word).
    """

    kind: Literal["byte", "char", "word", "bpe"] = Field(default="bpe", description="what a token is")
    vocab: PositiveInt = Field(default=8000, description="largest vocabulary (char, word and bpe)")
    lowercase: bool = Field(default=False, description="read all text in lower case")
    min_count: PositiveInt = Field(default=1, description="leave out words seen less often (word)")


class LanguageObjectiveConfig(AttentionTerms):
    """What is minimised: cross-entropy of the next token, and terms for the sake of the attention.

    Args:
        smoothing: label smoothing: this much is spread over all classes.
    """

    smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing")


class ScoringConfig(Strict):
    """How text is scored, in training and by `qkv evaluate`.

    Args:
        mode: segments: every segment on its own; sliding: every token with at least `length - stride`
            tokens before it; carry: the state is carried over the whole text.  null: carry where training
            carries the state, else segments.
        stride: tokens that a sliding window moves by; null: half a segment.
        tokens: most held-out tokens that are scored while training; 0: all.
        samples: how many continuations are printed at every validation.
    """

    mode: Mode | None = Field(
        default=None,
        description="segments: each on its own; sliding: overlapping windows; carry: the state goes on. "
        "null: carry where training carries the state, else segments",
    )
    stride: PositiveInt | None = Field(
        default=None, description="tokens that a sliding window moves by; null: half a segment"
    )
    tokens: int = Field(default=0, ge=0, description="most tokens scored while training; 0: all")
    samples: int = Field(default=0, ge=0, description="continuations printed at every validation")


class LanguageRecipe(Recipe):
    """Everything that training a language model needs.  Every key has a default but `data`."""

    task: Literal["generate"] = "generate"
    data: TextConfig
    tokens: VocabularyConfig = VocabularyConfig()
    batch: StreamConfig = StreamConfig()
    model: LanguageModelConfig = LanguageModelConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: LanguageObjectiveConfig = LanguageObjectiveConfig()
    validation: ScoringConfig = ScoringConfig()
    sample: SampleConfig = SampleConfig()

    @property
    def scoring_mode(self) -> Mode:
        """The mode of scoring, where the recipe leaves it to the training too."""
        return self.validation.mode or ("carry" if self.batch.carry else "segments")

    @model_validator(mode="after")
    def _positions_reach(self) -> "LanguageRecipe":
        limit = self.model.capacity.target
        carries = self.batch.carry or self.validation.mode == "carry"
        if limit is not None and (carries or self.batch.length > limit.positions):
            needed = "carrying the state needs" if carries else f"batch.length={self.batch.length} needs"
            raise ValueError(
                f"{needed} more positions than {limit.key}={limit.positions} holds: raise it, shorten the "
                "segments, or set model.positions to sinusoidal or none"
            )
        return self
