"""Validation: which weights are the best so far, and whether the mean of the last few is better still."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qkv.train.checkpoint import WEIGHTS
from qkv.train.config import TrainConfig
from qkv.train.interrupt import Interrupt
from qkv.train.loop_state import LOWER_IS_BETTER, LoopState, Scores, get_monitored_score, is_better
from qkv.train.objective.base import Objective
from qkv.train.run_directory import RunDirectory
from qkv.train.weights import (
    are_weights_finite,
    average_weights,
    copy_weights_to_cpu,
    restore_weights,
    write_weights_with_digest_and_label,
)

Validate = Callable[[], Scores]


class Validation:
    """Calls `validate`, and keeps the best weights and the last few in memory.

    Only the first process validates and keeps weights; every process gets the scores.  Weights that are not
    finite, and scores that are not, are never the best.
    """

    def __init__(
        self, objective: Objective, fabric: Any, run: RunDirectory, validate: Validate | None, monitor: str
    ) -> None:
        """Prepare the validation of an objective.

        Args:
            objective: the caller's objective, with complete weights.
            fabric: the launched Fabric.
            run: the run directory.
            validate: returns the scores of the objective's present weights; None: there is no validation.
            monitor: the name of the score that decides which weights are best.
        """
        self.objective, self.fabric, self.run = objective, fabric, run
        self.validate, self.monitor = validate, monitor
        self.higher_is_better = monitor not in LOWER_IS_BETTER
        self.recent_weights: list[dict[str, Tensor]] = []
        self.best_weights: dict[str, Tensor] | None = None
        self._is_written = False

    def is_due(self, loop_state: LoopState, config: TrainConfig, is_end: bool) -> bool:
        """Whether to validate before the next update; the last weights of a training always are.

        Args:
            loop_state: the position of the training.
            config: the section `train` of the recipe.
            is_end: whether no update follows.
        """
        if self.validate is None or loop_state.step == loop_state.validated_step:
            return False
        if config.validate_every == "epoch":
            return is_end or loop_state.index == 0
        return is_end or loop_state.step % config.validate_every == 0

    def validate_and_keep_if_best(
        self, loop_state: LoopState, config: TrainConfig, interrupt: Interrupt
    ) -> Scores | None:
        """Validate the present weights, and keep them where they are the best so far.

        Args:
            loop_state: the position of the training; the scores are recorded in it.
            config: the section `train` of the recipe.
            interrupt: stops the validation.

        Returns:
            All scores; None where it was interrupted, and nothing is recorded.
        """
        scores = self._validate_on_first_process_and_broadcast_scores(interrupt)
        if scores is None:
            return None
        score = self._get_monitored_score_or_nan_if_not_finite(scores)
        loop_state.record_validation_and_update_best(score, self.higher_is_better)
        # of equal scores, as accuracy has early in a training, the later ones have been trained longer
        is_worse = is_better(loop_state.kept_score, score, self.higher_is_better)
        if math.isfinite(score) and not is_worse:
            self._record_best_scores_and_copy_weights(loop_state, scores, score)
        if config.average and self.fabric.is_global_zero:
            self.recent_weights = [*self.recent_weights, copy_weights_to_cpu(self.objective)][
                -config.average :
            ]
        return scores

    def validate_average_and_keep_if_no_worse(
        self, loop_state: LoopState, interrupt: Interrupt
    ) -> Scores | None:
        """Validate the mean of the recent weights, and keep it where it is no worse than the best weights.

        The objective gets its own weights back.

        Args:
            loop_state: the position of the training; the scores of weights that are kept are recorded in it.
            interrupt: stops the validation.

        Returns:
            All scores; None where it was interrupted.
        """
        last_weights = copy_weights_to_cpu(self.objective) if self.recent_weights else {}
        if self.recent_weights:
            restore_weights(self.objective, average_weights(self.recent_weights))
        try:
            scores = self._validate_on_first_process_and_broadcast_scores(interrupt)
            if scores is not None:
                score = self._get_monitored_score_or_nan_if_not_finite(scores)
                is_worse = is_better(loop_state.kept_score, score, self.higher_is_better)
                if math.isfinite(score) and not is_worse:
                    self._record_best_scores_and_copy_weights(loop_state, scores, score)
        finally:
            restore_weights(self.objective, last_weights)
        return scores

    def restore_best_and_recent_weights(
        self, best_weights: dict[str, Tensor] | None, recent_weights: list[dict[str, Tensor]]
    ) -> None:
        """Restore the weights that a saved state holds.

        Args:
            best_weights: the weights with the best score; None before the first validation.
            recent_weights: the weights at the last validations.
        """
        self.best_weights, self.recent_weights = best_weights, recent_weights

    def bring_weights_file_up_to_date(self) -> None:
        """Let model.safetensors hold the best weights; without validation, the present ones.

        Called on the first process, after the state that holds them is saved: from a state its weights can be
        written again, while weights without their state cannot be told from those of another training.

        Raises:
            BadRun: the file cannot be written.
        """
        if self._is_written:
            return
        has_validation = self.validate is not None
        weights = self.best_weights if has_validation else copy_weights_to_cpu(self.objective.saved_module())
        if weights is not None:
            write_weights_with_digest_and_label(weights, self.run.path / WEIGHTS, self.run.label)
        self._is_written = has_validation

    def has_usable_weights(self, loop_state: LoopState) -> bool:
        """Whether a training that ends here leaves weights that can be used.

        Args:
            loop_state: the position of the training.
        """
        if self.validate is not None:
            return loop_state.kept_score is not None
        return are_weights_finite(dict(self.objective.named_parameters()))

    def _get_monitored_score_or_nan_if_not_finite(self, scores: Scores) -> float:
        """The monitored score; NaN where it or a weight is not finite."""
        score = get_monitored_score(scores, self.monitor)
        is_usable = math.isfinite(score) and are_weights_finite(dict(self.objective.named_parameters()))
        return score if is_usable else math.nan

    def _record_best_scores_and_copy_weights(
        self, loop_state: LoopState, scores: Scores, score: float
    ) -> None:
        loop_state.kept_score, loop_state.kept_scores = score, scores
        if self.fabric.is_global_zero:
            self.best_weights, self._is_written = copy_weights_to_cpu(self.objective.saved_module()), False

    def _validate_on_first_process_and_broadcast_scores(self, interrupt: Interrupt) -> Scores | None:
        """Call `validate` on the first process; its scores, on every process."""
        scores = None
        if self.fabric.is_global_zero and self.validate is not None:
            self.objective.eval()
            try:
                with torch.no_grad(), self.fabric.autocast(), interrupt.raise_on_first_signal():
                    scores = {name: float(score) for name, score in self.validate().items()}
            except KeyboardInterrupt:
                interrupt.is_requested = True
            finally:
                self.objective.train()
        return self.fabric.broadcast(scores)
