"""Where a training is, as plain values, and how an update or a validation changes that."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qkv.errors import BadRecipe, did_you_mean

LOWER_IS_BETTER = frozenset({"loss", "nll", "ppl", "perplexity", "error", "ter", "mse", "fid"})
# field -> its key in a saved state, where they differ: states of earlier versions must load
SAVED_KEYS = {
    "validated_step": "validated",
    "best_score": "best",
    "validations_without_improvement": "bad",
    "kept_score": "kept",
    "kept_scores": "scores",
}

Scores = dict[str, float]


@dataclass
class LoopState:
    """Everything about a training, between two updates, that is neither weights nor optimizer state.

    Args:
        step: the number of updates so far.
        epoch: the epoch of the next update, from 0.
        index: the position of the next update in its epoch, from 0.
        validated_step: the step of the last validation.
        best_score: the best monitored score of a single validation.
        validations_without_improvement: the number of validations since the one with the best score.
        kept_score: the monitored score of the weights in model.safetensors.
        kept_scores: all scores of those weights.
        skipped: the number of updates left out because their gradient was not finite.
        skipped_in_a_row: the number of the last updates that were all left out.
        seconds: the time spent, over all resumptions.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    validated_step: int = 0
    best_score: float | None = None
    validations_without_improvement: int = 0
    kept_score: float | None = None
    kept_scores: Scores = field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0

    def advance_one_update(self, updates_in_epoch: int) -> None:
        """Count one update, and move to the next epoch after its last update.

        Args:
            updates_in_epoch: the number of updates in the present epoch.
        """
        self.step += 1
        self.index += 1
        if self.index >= updates_in_epoch:
            self.epoch, self.index = self.epoch + 1, 0

    def record_validation_and_update_best(self, score: float, higher_is_better: bool) -> None:
        """Count one validation, and compare it with the best one.

        Args:
            score: the monitored score; NaN is never an improvement.
            higher_is_better: which direction is an improvement.
        """
        self.validated_step = self.step
        if is_better(score, self.best_score, higher_is_better):
            self.best_score, self.validations_without_improvement = score, 0
        else:
            self.validations_without_improvement += 1

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, under their keys in a saved state."""
        return {key: getattr(self, name) for name, key in map_fields_to_saved_keys().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoopState":
        """The loop state that `to_dict` wrote.

        Args:
            values: a dictionary with exactly the keys that `to_dict` writes.
        """
        return cls(**{name: values[key] for name, key in map_fields_to_saved_keys().items()})


def map_fields_to_saved_keys() -> dict[str, str]:
    """Field of `LoopState` -> its key in a saved state."""
    return {item.name: SAVED_KEYS.get(item.name, item.name) for item in fields(LoopState)}


def is_better(score: float | None, other: float | None, higher_is_better: bool) -> bool:
    """Whether a score is better than another.  None and NaN are worse than every number, and than themselves.

    Args:
        score: the score that may be better.
        other: the score to compare it with.
        higher_is_better: which direction is better.
    """
    if score is None or math.isnan(score):
        return False
    if other is None or math.isnan(other):
        return True
    return score > other if higher_is_better else score < other


def get_monitored_score(scores: Scores, monitor: str) -> float:
    """The score that decides which weights are best.

    Args:
        scores: all scores of a validation.
        monitor: the name of the score.

    Returns:
        The score.

    Raises:
        BadRecipe: the validation gave no such score.
    """
    if monitor not in scores:
        raise BadRecipe(
            f"validation gives no score '{monitor}' to monitor: name one that it gives. "
            f"{did_you_mean(monitor, scores)}"
        )
    return float(scores[monitor])


def format_scores(scores: Scores) -> str:
    """The scores as a text such as "bleu 12.34, loss 2.5".

    Measures of every layer, whose names have a dot, stand in metrics.jsonl alone.

    Args:
        scores: all scores of a validation.
    """
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if "." not in name)
