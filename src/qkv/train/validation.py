"""Validation: which weights are the best so far, and whether the mean of the last few is better still."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.train.checkpoint import WEIGHTS
from qkv.train.config import TrainConfig
from qkv.train.interrupt import Interrupt
from qkv.train.standing import LOWER_IS_BETTER, Scores, Standing, is_better, monitored
from qkv.train.weights import mean, restore, save_weights, snapshot

Validate = Callable[[], Scores]


class Validation:
    """Runs `validate`, keeps the best weights in `run` and the last few in memory.

    Only the first process validates and keeps weights; every process learns the scores.
    """

    def __init__(
        self, objective: nn.Module, fabric: Any, run: Path, validate: Validate | None, monitor: str
    ) -> None:
        self.objective, self.fabric, self.run = objective, fabric, run
        self.validate, self.monitor = validate, monitor
        self.higher_is_better = monitor not in LOWER_IS_BETTER
        self.last: list[dict[str, Tensor]] = []

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
        score = monitored(scores, self.monitor)
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
                score = monitored(scores, self.monitor)
                if not is_better(standing.kept, score, self.higher_is_better):
                    self._keep(standing, scores, score)
        finally:
            restore(self.objective, own)
        return scores

    def save_kept(self) -> None:
        """Write the present weights of the model, on the first process."""
        if self.fabric.is_global_zero:
            save_weights(getattr(self.objective, "model", self.objective), self.run / WEIGHTS)

    def _keep(self, standing: Standing, scores: Scores, score: float) -> None:
        standing.kept, standing.scores = score, scores
        self.save_kept()

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
