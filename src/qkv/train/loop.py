"""The training loop: whole updates, validation, early stopping, averaging, and exact resume.

Between two updates a training is its `Standing`, its weights and its optimizer's state, and nothing else.
The batches are a pure function of the position in the standing, and randomness is one of (seed, step,
rank); so a resumed training repeats the interrupted one bit by bit on the same machine.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import QKVError
from qkv.progress import progress
from qkv.train import checkpoint, engine, record, saved
from qkv.train.config import TrainConfig
from qkv.train.directory import Directory
from qkv.train.interrupt import Interrupt
from qkv.train.objective.base import Objective
from qkv.train.planning import Batches, planned_steps
from qkv.train.standing import Scores, Standing, monitored
from qkv.train.update import Updater
from qkv.train.validation import Validation


class Result(NamedTuple):
    """How a training ended.

    steps, epochs: updates and whole passes, over all resumptions.  stopped: "steps", "epochs" or "patience".
    best: the best monitored score of a single validation.  averaged: that of the averaged weights, if tried.
    scores: all scores of the weights in model.safetensors.
    skipped: updates left out because their gradient was not finite.  seconds: over all resumptions.
    """

    steps: int
    epochs: int
    stopped: str
    best: float | None
    averaged: float | None
    scores: Scores
    skipped: int
    seconds: float


def fit(
    objective: Objective,
    batches: Batches,
    config: TrainConfig,
    *,
    run: Path | Directory,
    validate: Callable[[], Scores] | None = None,
    monitor: str = "loss",
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Train `objective` in place, and leave in `run` what resuming and decoding need.

    `objective.saved_module()` is what model.safetensors holds: the best weights by `validate()[monitor]`, or
    the last ones without validation.  The module is left with the last weights.  `validate` is called on the
    first process only, with the objective on its device, in evaluation mode, without gradients.  Scores named
    in `LOWER_IS_BETTER` are better when lower, others when higher.

    Raises BadRun where `run` cannot be written, already holds a training, or cannot be resumed; QKVError
    where the training diverged; KeyboardInterrupt after Ctrl-C or SIGTERM, when everything is saved.
    """
    run = run if isinstance(run, Directory) else Directory(run)
    fabric = engine.start_engine(config)
    total = planned_steps(batches, config)
    updater = Updater(objective, config, fabric, total)
    validation = Validation(objective, fabric, run, validate, monitor)
    training = _Training(updater, batches, validation, total)
    try:
        training.begin(resume)
        with (
            engine.cpu_threads(config.threads),
            progress("train", total, quiet=quiet or not fabric.is_global_zero) as report,
            Interrupt() as interrupt,
        ):
            return training.go(report, interrupt)
    finally:
        training.close()


class _Training:
    def __init__(self, updater: Updater, batches: Batches, validation: Validation, total: int) -> None:
        self.updater, self.batches, self.validation, self.total = updater, batches, validation, total
        self.config, self.fabric, self.run = updater.config, updater.fabric, validation.run
        self.standing, self.tally = Standing(), record.Tally()
        self.unit = updater.objective.unit
        self.metrics: record.MetricsFile | None = None

    def begin(self, resume: bool) -> None:
        """Take over the state to resume, or save the first one.

        The first state is what makes a directory a run: what is there before it are drafts, and what a kill
        keeps from appearing after it is written again on resuming.
        """
        state = self._checked_state(resume) if self.fabric.is_global_zero else None
        state = self.fabric.broadcast(state)
        if state is not None:
            self._take(state)
        self.began = self.saved = time.monotonic()
        self.before = (self.standing.step, self.standing.seconds)
        self.validation.objective.train()
        with self._files():
            if state is None:
                self._save()  # already now, so that a full disk shows at once and every crash can be resumed
        if self.fabric.is_global_zero:
            self.validation.write_kept()
            metrics = self.run.path / checkpoint.METRICS
            self.metrics = record.MetricsFile(metrics, state["metrics_bytes"] if state else 0)

    def _checked_state(self, resume: bool) -> dict[str, Any] | None:
        path = self.run.path
        if not resume:
            checkpoint.refuse_started(path, self.run.files)
            return None
        state = saved.read_state(path)
        objective, precision = self.validation.objective, self.fabric.strategy.precision.state_dict()
        optimizers = {name: wrapped.optimizer for name, wrapped in self.updater.optimizers.items()}
        saved.check_fit(path, state, self.config, objective, optimizers, precision)
        self.validation.take(state.pop("kept"), state.pop("last"))
        return state

    def _files(self) -> AbstractContextManager[None]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        path, names = self.run.path, (str(checkpoint.STATE), str(checkpoint.WEIGHTS), *self.run.files)
        checkpoint.remove_drafts(path, names)
        return checkpoint.staged(path, self.run.differing())

    def go(self, report: Any, interrupt: Interrupt) -> Result:
        """Train to the end."""
        while True:
            ended = self._ended()
            if self.validation.is_due(self.standing, self.config, ended=bool(ended)):
                self._validate(report, interrupt)
                ended = self._ended()
            self._save_if_due(interrupt, ended)
            if ended:
                return self._finish(ended, report, interrupt)
            self.updater.update(self.batches, self.standing, self.tally)
            self.standing.advance(self.batches.steps(self.standing.epoch))
            if self.standing.step % self.config.log_every == 0:
                self._log()
            report.update(self.standing.step, f"{self.updater.speed:,.0f} {self.unit}/s")

    def close(self) -> None:
        """Close the metrics file."""
        if self.metrics is not None:
            self.metrics.close()

    def _ended(self) -> str | None:
        ends = {
            "patience": (self.standing.bad, self.config.patience),
            "steps": (self.standing.step, self.config.steps),
            "epochs": (self.standing.epoch, self.config.epochs),
        }
        return next((why for why, (now, limit) in ends.items() if limit is not None and now >= limit), None)

    def _validate(self, report: Any, interrupt: Interrupt) -> None:
        scores = self.validation.run_once(self.standing, self.config, interrupt)
        if scores is not None:
            best = self.standing.bad == 0
            self._write("validation", {**scores, "best": best})
            report.say(f"update {self.standing.step}: {_shown(scores)}{' (best so far)' if best else ''}")
            self.saved = -math.inf  # what was learnt took long enough to be worth saving

    def _save_if_due(self, interrupt: Interrupt, ended: str | None) -> None:
        late = time.monotonic() - self.saved >= self.config.save_every_seconds
        stop, save = engine.agree(self.fabric, [interrupt.asked, late or ended is not None])
        if stop or save:
            self._save()
        if stop:
            raise KeyboardInterrupt(
                f"stopped after update {self.standing.step}; all is saved in {self.run.path}"
            )

    def _finish(self, reason: str, report: Any, interrupt: Interrupt) -> Result:
        standing, averaged = self.standing, None
        if self.config.average > 1 and self.validation.validate is not None:
            scores = self.validation.try_mean(standing, interrupt)
            self._save_if_due(interrupt, reason)
            if scores is not None:
                averaged = monitored(scores, self.validation.monitor)
                self._write("average", {**scores, "best": standing.kept == averaged})
                report.say(f"mean of the last weights: {_shown(scores)}; best single one: {standing.best}")
        if self.validation.is_without_weights(standing):
            raise QKVError(
                f"the training diverged: after {standing.step} updates there are no usable weights, for they "
                "or their scores are not finite. Lower train.lr, lengthen train.warmup, or set "
                "train.precision to '32', and train into another directory."
            )
        return Result(
            steps=standing.step,
            epochs=standing.epoch,
            stopped=reason,
            best=standing.best,
            averaged=averaged,
            scores=standing.scores,
            skipped=standing.skipped,
            seconds=standing.seconds,
        )

    def _log(self) -> None:
        sums = self._gathered()
        self.tally = record.Tally()
        if self.metrics is not None:
            means = record.means(sums, self.unit)
            self._write("train", {**means, "lr": self.updater.rate, "gradient_norm": self.updater.norm})

    def _gathered(self) -> dict[str, record.Number]:
        self.tally = record.gather(self.tally, self.fabric)
        sums = self.tally.sums()
        if sums.get("tokens") != sums.get("expected"):
            raise ValueError(
                f"batches.tokens promised {sums['expected']} {self.unit}, the objective counted "
                f"{sums['tokens']}"
            )
        return sums

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        self._clock()
        place = {"kind": kind, "step": self.standing.step, "epoch": self.standing.epoch}
        if self.metrics is not None:
            self.metrics.write({**place, **values, "seconds": round(self.standing.seconds, 3)})

    def _clock(self) -> None:
        self.standing.seconds = self.before[1] + time.monotonic() - self.began

    def _save(self) -> None:
        sums = self._gathered()
        self._clock()
        self.saved = time.monotonic()
        if not self.fabric.is_global_zero:
            return
        state = {
            "format": saved.FORMAT,
            "origin": dict(self.run.origin),
            "config": self.config.model_dump(mode="json"),
            "standing": asdict(self.standing),
            "tally": sums,
            "metrics_bytes": self.metrics.size() if self.metrics else 0,
            "weights": self.validation.objective.state_dict(),
            "kept": self.validation.kept,
            "last": self.validation.last,
            **self.updater.state(),
        }
        checkpoint.save_state(self.run.path, state)
        self.validation.write_kept()

    def _take(self, state: dict[str, Any]) -> None:
        self.standing = Standing(**state["standing"])
        if self.standing.index >= self.batches.steps(self.standing.epoch):
            raise checkpoint.damaged(
                self.run.path / checkpoint.STATE,
                "it stands at an update that the training data does not have",
            )
        self.validation.objective.load_state_dict(state["weights"])
        self.updater.load_state(state)
        if self.fabric.is_global_zero:
            self.tally = record.Tally(state["tally"])


def _shown(scores: Scores) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
