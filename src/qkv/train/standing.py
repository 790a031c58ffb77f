"""Where a training stands, as plain values, and how a validation changes it."""

import math
from dataclasses import dataclass, field

from qkv.errors import BadRecipe, did_you_mean

LOWER_IS_BETTER = frozenset({"loss", "nll", "ppl", "perplexity", "error", "ter"})

Scores = dict[str, float]


@dataclass
class Standing:
    """Everything about a training, at the end of an update, that is neither weights nor optimizer state.

    step: updates so far.  (epoch, index): position of the next one.  validated: step of the last validation.
    best: best monitored score of a single validation; bad: validations since then.
    kept: monitored score of the weights in model.safetensors; scores: all their scores.
    skipped, skipped_in_a_row: updates left out because their gradient was not finite.
    seconds: time spent, over all resumptions.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    validated: int = 0
    best: float | None = None
    bad: int = 0
    kept: float | None = None
    scores: Scores = field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0

    def advance(self, steps_of_epoch: int) -> None:
        """Count one update."""
        self.step += 1
        self.index += 1
        if self.index >= steps_of_epoch:
            self.epoch, self.index = self.epoch + 1, 0

    def judge(self, score: float, higher_is_better: bool) -> None:
        """Count one validation."""
        self.validated = self.step
        if is_better(score, self.best, higher_is_better):
            self.best, self.bad = score, 0
        else:
            self.bad += 1


def is_better(score: float | None, than: float | None, higher_is_better: bool) -> bool:
    """Whether a score beats another.  None and NaN beat nothing, and every number beats them."""
    if score is None or math.isnan(score):
        return False
    if than is None or math.isnan(than):
        return True
    return score > than if higher_is_better else score < than


def monitored(scores: Scores, monitor: str) -> float:
    """The score that decides.  Raises BadRecipe where validation does not give it."""
    if monitor not in scores:
        raise BadRecipe(f"validation gives no score '{monitor}' to monitor. {did_you_mean(monitor, scores)}")
    return float(scores[monitor])
