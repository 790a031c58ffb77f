"""Validation: which weights are the best so far, and whether the mean of the last few is better still."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qkv.train.checkpoint import WEIGHTS
from qkv.train.config import TrainConfig
from qkv.train.directory import Directory
from qkv.train.interrupt import Interrupt
from qkv.train.objective.base import Objective
from qkv.train.standing import LOWER_IS_BETTER, Scores, Standing, is_better, monitored
from qkv.train.weights import are_finite, mean, restore, snapshot, write_weights

Validate = Callable[[], Scores]


class Validation:
    """Runs `validate`, and keeps the best weights and the last few in memory.

    Only the first process validates and keeps weights; every process learns the scores.  Weights that are not
    finite, and scores that are not, are never the best.
    """

    def __init__(
        self, objective: Objective, fabric: Any, run: Directory, validate: Validate | None, monitor: str
    ) -> None:
        self.objective, self.fabric, self.run = objective, fabric, run
        self.validate, self.monitor = validate, monitor
        self.higher_is_better = monitor not in LOWER_IS_BETTER
        self.last: list[dict[str, Tensor]] = []
        self.kept: dict[str, Tensor] | None = None
        self._is_written = False

    def is_due(self, standing: Standing, config: TrainConfig, ended: bool) -> bool:
        """Whether to validate before the next update; the last weights of a training always are."""
        if self.validate is None or standing.step == standing.validated:
            return False
        if config.validate_every == "epoch":
            return ended or standing.index == 0
        return ended or standing.step % config.validate_every == 0

    def run_once(self, standing: Standing, config: TrainConfig, interrupt: Interrupt) -> Scores | None:
        """Validate, and note the outcome in the standing.  None, with nothing noted, if interrupted."""
        scores = self._scores(interrupt)
        if scores is None:
            return None
        score = self._score(scores)
        standing.judge(score, self.higher_is_better)
        if is_better(score, standing.kept, self.higher_is_better):
            self._keep(standing, scores, score)
        if config.average and self.fabric.is_global_zero:
            self.last = [*self.last, snapshot(self.objective)][-config.average :]
        return scores

    def try_mean(self, standing: Standing, interrupt: Interrupt) -> Scores | None:
        """Validate the mean of the last weights, and keep it where it is no worse than what is kept.

        None where it was interrupted.  The objective gets its own weights back.
        """
        own = snapshot(self.objective) if self.last else {}
        if self.last:
            restore(self.objective, mean(self.last))
        try:
            scores = self._scores(interrupt)
            if scores is not None:
                score = self._score(scores)
                if math.isfinite(score) and not is_better(standing.kept, score, self.higher_is_better):
                    self._keep(standing, scores, score)
        finally:
            restore(self.objective, own)
        return scores

    def take(self, kept: dict[str, Tensor] | None, last: list[dict[str, Tensor]]) -> None:
        """Go on from what a state kept."""
        self.kept, self.last = kept, last

    def write_kept(self) -> None:
        """Write the kept weights where the file does not hold them yet; without validation, the present ones.

        Called on the first process, after the state that holds them is saved: from a state its weights can be
        written again, while weights without their state could not be told from those of another training.
        """
        if self._is_written:
            return
        kept = snapshot(self.objective.saved_module()) if self.validate is None else self.kept
        if kept is not None:
            write_weights(kept, self.run.path / WEIGHTS, self.run.label)
        self._is_written = self.validate is not None

    def is_without_weights(self, standing: Standing) -> bool:
        """Whether a training that ended here leaves nothing that could be used."""
        if self.validate is not None:
            return standing.kept is None
        return not are_finite(dict(self.objective.named_parameters()))

    def _score(self, scores: Scores) -> float:
        score = monitored(scores, self.monitor)
        usable = math.isfinite(score) and are_finite(dict(self.objective.named_parameters()))
        return score if usable else math.nan

    def _keep(self, standing: Standing, scores: Scores, score: float) -> None:
        standing.kept, standing.scores = score, scores
        if self.fabric.is_global_zero:
            self.kept, self._is_written = snapshot(self.objective.saved_module()), False

    def _scores(self, interrupt: Interrupt) -> Scores | None:
        scores = None
        if self.fabric.is_global_zero and self.validate is not None:
            self.objective.eval()
            try:
                with torch.no_grad(), self.fabric.autocast(), interrupt.at_once():
                    scores = {name: float(score) for name, score in self.validate().items()}
            except KeyboardInterrupt:
                interrupt.asked = True
            finally:
                self.objective.train()
        return self.fabric.broadcast(scores)
