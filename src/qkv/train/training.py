"""Train any objective over any source of batches into a run directory."""

from collections.abc import Callable
from pathlib import Path

from qkv.progress import show_progress
from qkv.train.config import TrainConfig
from qkv.train.devices import limit_cpu_threads
from qkv.train.engine import start_fabric
from qkv.train.interrupt import Interrupt
from qkv.train.loop import Result, TrainingLoop
from qkv.train.loop_state import Scores
from qkv.train.objective.base import Objective
from qkv.train.planning import Batches, count_planned_updates
from qkv.train.run_directory import RunDirectory
from qkv.train.tensorboard import import_tensorboard
from qkv.train.update import Updater
from qkv.train.validation import Validation


def fit(
    objective: Objective,
    batches: Batches,
    config: TrainConfig,
    *,
    run: Path | RunDirectory,
    validate: Callable[[], Scores] | None = None,
    monitor: str = "loss",
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Train an objective, and leave in a directory what resuming and decoding need.

    model.safetensors holds `objective.saved_module()` with the best weights by `validate()[monitor]`, or the
    last ones without validation.  The objective is left with the last weights.

    Args:
        objective: the objective, whose parameters are changed in place.
        batches: where updates come from.
        config: the section `train` of a recipe.
        run: the run directory.
        validate: returns the scores of the objective's present weights.  It is called on the first process
            only, with the objective on its device, in evaluation mode, without gradients.
        monitor: the score that decides.  Scores named in `LOWER_IS_BETTER` are better when lower, others
            when higher.
        resume: continue the training in `run` instead of starting one.
        quiet: report no progress.

    Returns:
        How the training ended.

    Raises:
        BadRecipe: the configuration cannot be used with this machine, objective or validation.
        BadRun: `run` cannot be written, already holds a training, or cannot be resumed.
        QKVError: the training diverged.
        KeyboardInterrupt: Ctrl-C or SIGTERM; everything is saved.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory(run)
    if config.tensorboard:
        import_tensorboard()  # refuse a missing package before anything is written
    fabric = start_fabric(config)
    total = count_planned_updates(batches, config)
    updater = Updater(objective, config, fabric, total)
    validation = Validation(objective, fabric, run, validate, monitor)
    training = TrainingLoop(updater, batches, validation)
    try:
        training.restore_or_save_first_state_and_open_files(resume)
        with (
            limit_cpu_threads(config.threads),
            show_progress("train", total, quiet=quiet or not fabric.is_global_zero) as report,
            Interrupt() as interrupt,
        ):
            return training.train(report, interrupt)
    finally:
        training.close()
