"""The recipe of a language model."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.data.generated.copying import CopyingData
from qkv.data.generated.examples import ExampleData
from qkv.data.generated.recall import RecallData
from qkv.data.streams import StreamConfig
from qkv.data.tokens import CONTROL
from qkv.decode.sample import SampleConfig
from qkv.model.language import LanguageModelConfig
from qkv.strict import Strict
from qkv.task.base import EPOCHS, Recipe
from qkv.task.data_source import check_one_source
from qkv.task.generate.windows import Mode, Windows
from qkv.task.texts import TextConfig, VocabularyConfig
from qkv.task.transfer import TransferConfig
from qkv.train import AttentionTerms, TrainConfig


class LanguageData(TextConfig):
    """Where the text comes from: files of your own, or generated phrases or examples.

    Args:
        recall: generate examples of associative recall; only the values that are asked for count.
        copying: generate sequences and their copies; only the copies count.
    """

    recall: RecallData | None = None
    copying: CopyingData | None = None

    @property
    def examples(self) -> ExampleData | None:
        """The section that generates independent examples, if there is one."""
        return self.recall or self.copying

    @property
    def examples_key(self) -> str:
        """The key of that section."""
        return "data.recall" if self.recall else "data.copying"

    @model_validator(mode="after")
    def _has_one_source(self) -> "LanguageData":
        check_one_source(self, ("phrases", "recall", "copying"), "text")
        return self


class LanguageObjectiveConfig(AttentionTerms):
    """What is minimised: cross-entropy of the next token, and terms for the sake of the attention.

    Args:
        smoothing: label smoothing: this much is spread over all classes.
    """

    smoothing: float = Field(default=0.0, ge=0, lt=1)


class ScoringConfig(Strict):
    """How text is scored, in training and by `qkv evaluate`.

    Args:
        mode: segments: every segment on its own; sliding: every token with at least `length - stride`
            tokens before it; carry: the state is carried over the whole text.  null: carry where training
            carries the state, else segments.
        stride: tokens that a sliding window moves by; null: half a segment.
        tokens: most held-out tokens that are scored while training; 0: all.
        samples: how many continuations are printed at every validation.
        attention: held-out segments on which entropy, diagonality and coverage of every attention are
            measured at every validation; 0: none.
    """

    mode: Mode | None = None
    stride: PositiveInt | None = None
    tokens: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    attention: int = Field(default=0, ge=0)


class LanguageRecipe(Recipe):
    """Everything that training a language model needs.  Every key has a default but `data`.

    Args:
        task: the value that selects this task.
        description: what the recipe is for; `qkv recipes` shows its first line.
        data: the text, or generated examples.
        tokens: how text becomes tokens.
        batch: how the text is cut into segments; a generated example is one segment.
        model: the language model.
        train: how the model is trained.
        objective: what is minimised.
        transfer: minimise the mismatch with the attention of the run that `--from` names instead; null: no.
        validation: how text is scored while training, and by `qkv evaluate`.
        sample: how `qkv generate` samples.
    """

    task: Literal["generate"] = "generate"
    data: LanguageData
    tokens: VocabularyConfig = VocabularyConfig()
    batch: StreamConfig = StreamConfig()
    model: LanguageModelConfig = LanguageModelConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: LanguageObjectiveConfig = LanguageObjectiveConfig()
    transfer: TransferConfig | None = None
    validation: ScoringConfig = ScoringConfig()
    sample: SampleConfig = SampleConfig()

    @property
    def scoring_mode(self) -> Mode:
        """The mode of scoring, where the recipe leaves it to the training too."""
        return self.validation.mode or ("carry" if self.batch.carry else "segments")

    @property
    def windows(self) -> Windows:
        """How text is read for its scores, where nothing else is asked for."""
        segment = self.batch.length
        return Windows(self.scoring_mode, segment, self.validation.stride or max(1, segment // 2))

    @property
    def scoring(self) -> str:
        """How held-out text is read; generated examples are read whole."""
        return "" if self.data.examples else str(self.windows)

    @model_validator(mode="after")
    def _clusters_fit(self) -> "LanguageRecipe":
        if not self.model.clusters:
            return self
        if self.tokens.kind != "word":
            raise ValueError(
                f"model.clusters needs ids in order of frequency, which tokens.kind={self.tokens.kind} does "
                "not have: set tokens.kind to word, or leave the clusters out"
            )
        if self.objective.smoothing:
            raise ValueError(
                "objective.smoothing needs the scores of all words, which model.clusters avoids: leave one "
                "of them out"
            )
        return self

    @model_validator(mode="after")
    def _positions_reach(self) -> "LanguageRecipe":
        limit = self.model.length_limits.target
        carries = self.batch.carry or self.validation.mode == "carry"
        if carries and not self.model.has_bounded_state:
            keys = "batch.carry=false" if self.batch.carry else "validation.mode to segments or sliding"
            raise ValueError(
                "the state of softmax attention over all keys grows with the text and is not carried: set "
                f"{keys}, or choose a feature map such as kernel: {{name: rfa}}, a window as scope, or "
                "mixer: gru, lstm or convolution"
            )
        if limit is not None and (carries or self.batch.length > limit.positions):
            needed = "carrying the state needs" if carries else f"batch.length={self.batch.length} needs"
            raise ValueError(
                f"{needed} more positions than {limit.key}={limit.positions} holds: raise it, shorten the "
                "segments, or set model.positions to sinusoidal or none"
            )
        if self.batch.carry and self.transfer is not None:
            raise ValueError("transfer reads every segment on its own: set batch.carry=false")
        if self.batch.carry and self.train.strategy == "fsdp":
            raise ValueError(
                "train.strategy: fsdp cannot carry a state over segments: set batch.carry=false, or use ddp"
            )
        return self

    @model_validator(mode="after")
    def _examples_fit(self) -> "LanguageRecipe":
        examples, key = self.data.examples, self.data.examples_key
        if examples is None:
            return self
        needed = len(examples.list_symbols()) + len(CONTROL)
        if self.tokens.kind != "word" or self.tokens.min_count > 1 or self.tokens.vocab < needed:
            raise ValueError(
                f"{key} needs every symbol as a token: set tokens to {{kind: word, vocab: {needed}}} or a "
                "larger vocab, without min_count"
            )
        if self.batch.length < examples.longest:
            raise ValueError(
                f"batch.length={self.batch.length} is shorter than the examples of {key}, "
                f"{examples.longest} tokens: raise it, or shorten the examples"
            )
        if self.batch.carry or self.validation.mode not in (None, "segments"):
            raise ValueError(f"examples of {key} are independent: leave out batch.carry and validation.mode")
        return self
