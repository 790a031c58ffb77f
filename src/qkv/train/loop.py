"""The training loop: whole updates, validation, early stopping, averaging, and exact resume.

Between two updates a training is its `LoopState`, its weights and its optimizers' states, and nothing else.
The batches are a pure function of the position, and the random numbers are a function of (seed, step,
rank); so a resumed training repeats the interrupted one bit by bit on the same machine.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from qkv.errors import QKVError
from qkv.progress import Progress
from qkv.train import carried_state as carried
from qkv.train import checkpoint, engine, metrics, state_check
from qkv.train.interrupt import Interrupt
from qkv.train.loop_state import LoopState, Scores, format_scores, get_monitored_score
from qkv.train.planning import Batches
from qkv.train.tensorboard import EventFile
from qkv.train.update import Updater
from qkv.train.validation import Validation


class Result(NamedTuple):
    """How a training ended.

    Args:
        steps: the number of updates, over all resumptions.
        epochs: the number of complete passes over the data, over all resumptions.
        stopped: the limit that ended it: "steps", "epochs" or "patience".
        best: the best monitored score of a single validation; None without validation.
        averaged: the monitored score of the averaged weights; None where they were not tried.
        scores: all scores of the weights in model.safetensors.
        skipped: the number of updates left out because their gradient was not finite.
        seconds: the time spent, over all resumptions.
    """

    steps: int
    epochs: int
    stopped: str
    best: float | None
    averaged: float | None
    scores: Scores
    skipped: int
    seconds: float


class TrainingLoop:
    """One call of `fit`: the training and the files that it writes."""

    def __init__(self, updater: Updater, batches: Batches, validation: Validation) -> None:
        """Prepare a training that has not started.

        Args:
            updater: the objective and its optimizers.
            batches: where updates come from.
            validation: the scores of the objective, and the run directory.
        """
        self.updater, self.batches, self.validation = updater, batches, validation
        self.config, self.fabric, self.run = updater.config, updater.fabric, validation.run
        self.loop_state, self.metric_sums = LoopState(), metrics.MetricSums()
        self.unit, self.latest_means = updater.objective.unit, ""
        self.metrics_file: metrics.MetricsFile | None = None
        self.event_file: EventFile | None = None

    def restore_or_save_first_state_and_open_files(self, resume: bool) -> None:
        """Restore the state to resume, or save the first one.

        The first state is what makes a directory a run: before it there are only drafts, and what a kill
        keeps from appearing after it is written again on resuming.

        Args:
            resume: whether the run directory holds a training to continue.

        Raises:
            BadRun: the run directory cannot be written, already holds a training, or cannot be resumed.
        """
        is_first = self.fabric.is_global_zero
        state = self._check_directory_read_state_and_restore_copies(resume) if is_first else None
        state = self.fabric.broadcast(state)
        if state is not None:
            self._restore_state(state)
        self.updater.strategy.copy_weights_to_sharded_copy_if_any()
        self.started_at = self.saved_at = time.monotonic()
        self.seconds_before = self.loop_state.seconds
        self.validation.objective.train()
        with self._remove_drafts_and_stage_outdated_files():
            if state is None:
                # already now, so that a full disk shows at once and every crash can be resumed
                self._save_state_and_best_weights()
        if self.fabric.is_global_zero:
            self.validation.bring_weights_file_up_to_date()
            self._open_metrics_and_event_files(state["metrics_bytes"] if state else 0)

    def _check_directory_read_state_and_restore_copies(self, resume: bool) -> dict[str, Any] | None:
        path = self.run.path
        if not resume:
            checkpoint.refuse_to_overwrite_files(path, self.run.files)
            return None
        state = state_check.read_and_check_state(path)
        objective, precision = self.validation.objective, self.fabric.strategy.precision.state_dict()
        optimizers = {name: wrapped.optimizer for name, wrapped in self.updater.optimizers.items()}
        state_check.check_state_fits(path, state, self.config, objective, optimizers, precision)
        self.validation.restore_best_and_recent_weights(state.pop("kept"), state.pop("last"))
        return state

    def _remove_drafts_and_stage_outdated_files(self) -> AbstractContextManager[None]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        path, names = self.run.path, (str(checkpoint.STATE), str(checkpoint.WEIGHTS), *self.run.files)
        checkpoint.remove_drafts(path, names)
        return checkpoint.write_drafts_then_move_into_place(path, self.run.find_missing_or_outdated_files())

    def _open_metrics_and_event_files(self, size_to_keep: int) -> None:
        path = self.run.path / checkpoint.METRICS
        self.metrics_file = metrics.MetricsFile(path, size_to_keep)
        if self.config.tensorboard:
            self.event_file = EventFile(self.run.path, path, self.seconds_before)

    def train(self, report: Progress, interrupt: Interrupt) -> Result:
        """Train until a limit of the configuration is reached.

        Args:
            report: where progress is shown.
            interrupt: requests to stop.

        Returns:
            How the training ended.

        Raises:
            QKVError: the training diverged.
            KeyboardInterrupt: it was asked to stop; everything is saved.
        """
        while True:
            reason = self._find_stop_reason()
            if self.validation.is_due(self.loop_state, self.config, is_end=reason is not None):
                self._validate_report_and_request_save(report, interrupt)
                reason = self._find_stop_reason()
            self._save_if_due_and_raise_if_interrupted(interrupt, reason)
            if reason:
                average_score = self._validate_save_and_report_average(reason, report, interrupt)
                return self._build_result_or_raise_if_diverged(reason, average_score)
            self.updater.update(self.batches, self.loop_state, self.metric_sums)
            self.loop_state.advance_one_update(self.batches.steps(self.loop_state.epoch))
            if self.loop_state.step % self.config.log_every == 0:
                self._write_means_and_reset_sums()
            report.update(self.loop_state.step, f"{self.latest_means}{self.updater.speed:,.0f} {self.unit}/s")

    def close(self) -> None:
        """Close the files that are written during the training."""
        for file in (self.metrics_file, self.event_file):
            if file is not None:
                file.close()

    def _find_stop_reason(self) -> str | None:
        """The key of the configuration whose limit is reached; None where training goes on."""
        limits = {
            "patience": (self.loop_state.validations_without_improvement, self.config.patience),
            "steps": (self.loop_state.step, self.config.steps),
            "epochs": (self.loop_state.epoch, self.config.epochs),
        }
        reached = (key for key, (count, limit) in limits.items() if limit is not None and count >= limit)
        return next(reached, None)

    def _validate_report_and_request_save(self, report: Progress, interrupt: Interrupt) -> None:
        self.updater.strategy.copy_weights_from_sharded_copy_if_any()
        scores = self.validation.validate_and_keep_if_best(self.loop_state, self.config, interrupt)
        if scores is not None:
            is_best = self.loop_state.kept_scores is scores
            self._write_metrics_and_events("validation", {**scores, **self.run.score_notes, "best": is_best})
            note = " (best so far)" if is_best else ""
            report.print_line(f"update {self.loop_state.step}: {format_scores(scores)}{note}")
            self.saved_at = -math.inf  # the weights of a validation took long enough to be worth saving

    def _save_if_due_and_raise_if_interrupted(self, interrupt: Interrupt, reason: str | None) -> None:
        is_late = time.monotonic() - self.saved_at >= self.config.save_every_seconds
        flags = [interrupt.is_requested, is_late or reason is not None]
        stop, save = engine.or_flags_over_processes(flags, self.fabric)
        if stop or save:
            self._save_state_and_best_weights()
        if stop:
            raise KeyboardInterrupt(
                f"stopped after update {self.loop_state.step}; all is saved in {self.run.path}"
            )

    def _validate_save_and_report_average(
        self, reason: str, report: Progress, interrupt: Interrupt
    ) -> float | None:
        """The monitored score of the mean of the last weights; None where the recipe averages none."""
        if self.config.average <= 1 or self.validation.validate is None:
            return None
        loop_state = self.loop_state
        scores = self.validation.validate_average_and_keep_if_no_worse(loop_state, interrupt)
        self._save_if_due_and_raise_if_interrupted(interrupt, reason)
        if scores is None:
            return None
        average_score = get_monitored_score(scores, self.validation.monitor)
        is_kept = loop_state.kept_score == average_score
        self._write_metrics_and_events("average", {**scores, **self.run.score_notes, "best": is_kept})
        best = loop_state.best_score
        report.print_line(f"mean of the last weights: {format_scores(scores)}; best single one: {best}")
        return average_score

    def _build_result_or_raise_if_diverged(self, reason: str, average_score: float | None) -> Result:
        """How the training ended; raises QKVError where it diverged."""
        loop_state = self.loop_state
        if not self.validation.has_usable_weights(loop_state):
            raise QKVError(
                f"the training diverged: after {loop_state.step} updates there are no usable weights: they "
                "or their scores are not finite. Lower train.lr, lengthen train.warmup, or set "
                "train.precision to '32', and train into another directory."
            )
        return Result(
            steps=loop_state.step,
            epochs=loop_state.epoch,
            stopped=reason,
            best=loop_state.best_score,
            averaged=average_score,
            scores=loop_state.kept_scores,
            skipped=loop_state.skipped,
            seconds=loop_state.seconds,
        )

    def _write_means_and_reset_sums(self) -> None:
        totals = self._gather_metric_sums_and_return_checked_totals()
        self.metric_sums = metrics.MetricSums()
        if self.metrics_file is not None:
            means = metrics.compute_means_perplexity_and_speed(totals, self.unit)
            shown = {name: means[name] for name in self.updater.objective.progress_metrics}
            self.latest_means = f"{format_scores(shown)}, "
            rates = {"lr": self.updater.learning_rate, "gradient_norm": self.updater.gradient_norm}
            self._write_metrics_and_events("train", {**means, **rates})

    def _gather_metric_sums_and_return_checked_totals(self) -> dict[str, metrics.Number]:
        """The sums over all processes; the first process keeps them, the others start again from none."""
        self.metric_sums = metrics.gather_sums_on_first_process(self.metric_sums, self.fabric)
        totals = self.metric_sums.compute_totals()
        if totals.get("tokens") != totals.get("expected"):
            raise ValueError(
                f"batches.count promised {totals['expected']} {self.unit}, the objective counted "
                f"{totals['tokens']}: make Batches.count return the sum of Loss.count over the update's "
                "batches"
            )
        return totals

    def _write_metrics_and_events(self, kind: str, values: dict[str, Any]) -> None:
        self._update_elapsed_seconds()
        if self.metrics_file is None:
            return
        position = {"kind": kind, "step": self.loop_state.step, "epoch": self.loop_state.epoch}
        line = {**position, **values, "seconds": round(self.loop_state.seconds, 3)}
        self.metrics_file.append_line(line)
        if self.event_file is not None:
            self.event_file.write_scalars(line)
            self.event_file.flush()

    def _update_elapsed_seconds(self) -> None:
        self.loop_state.seconds = self.seconds_before + time.monotonic() - self.started_at

    def _save_state_and_best_weights(self) -> None:
        totals, updater_state = (
            self._gather_metric_sums_and_return_checked_totals(),
            self.updater.state_dict(),
        )
        self.updater.strategy.copy_weights_from_sharded_copy_if_any()
        carried_states = carried.gather_carried_states_on_first_process(self.updater.objective, self.fabric)
        self._update_elapsed_seconds()
        self.saved_at = time.monotonic()
        if not self.fabric.is_global_zero:
            return
        # the keys are those of earlier versions, whose runs can be resumed
        state = {
            "format": state_check.FORMAT,
            "origin": dict(self.run.origin),
            "config": self.config.model_dump(mode="json"),
            "standing": self.loop_state.to_dict(),
            "tally": totals,
            "metrics_bytes": self.metrics_file.get_size_in_bytes() if self.metrics_file else 0,
            "weights": self.validation.objective.state_dict(),
            "kept": self.validation.best_weights,
            "last": self.validation.recent_weights,
            **updater_state,
            **({"carried": carried_states} if carried_states else {}),
        }
        checkpoint.save_state(self.run.path, state)
        self.validation.bring_weights_file_up_to_date()

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.loop_state = LoopState.from_dict(state["standing"])
        if self.loop_state.index >= self.batches.steps(self.loop_state.epoch):
            raise checkpoint.make_damaged_error(
                self.run.path / checkpoint.STATE,
                "its next update is one that the training data does not have",
            )
        self.validation.objective.load_state_dict(state["weights"])
        self.updater.load_state_dict(state)
        carried.restore_carried_state(state, self.updater.objective, self.fabric, self.run.path)
        if self.fabric.is_global_zero:
            self.metric_sums = metrics.MetricSums(state["tally"])
