"""The scalars of metrics.jsonl as an event file for TensorBoard (`train.tensorboard: true`)."""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from qkv.errors import BadRecipe, BadRun
from qkv.requirements import Unmet, format_install_command

FOLDER = Path("tensorboard")
POSITION = ("kind", "step", "epoch", "seconds")  # of a line of metrics.jsonl; all else in it are values


def import_tensorboard() -> ModuleType:
    """torch's module that writes event files.

    Raises:
        BadRecipe: the package tensorboard is not installed.
    """
    try:
        import torch.utils.tensorboard as module
    except ImportError as error:
        command = format_install_command([Unmet("tensorboard", "")])
        raise BadRecipe(
            f"train.tensorboard is true, but the package tensorboard cannot be imported ({error}): install "
            f"it with `{command}`, or set train.tensorboard to false"
        ) from None
    return module


class EventFile:
    """An event file with the same values as metrics.jsonl, in a folder of its own in the run directory.

    A resumed training writes it anew from the lines of metrics.jsonl, which were cut back to the saved state;
    so no step appears twice.
    """

    def __init__(self, run: Path, metrics: Path, seconds: float) -> None:
        """Remove the event files of earlier starts, and write what metrics.jsonl holds.

        Args:
            run: the run directory.
            metrics: the file metrics.jsonl, cut back to the state that is resumed.
            seconds: the time spent on the training so far.

        Raises:
            BadRecipe: the package tensorboard is not installed.
            BadRun: the event file cannot be written.
        """
        writer = import_tensorboard().SummaryWriter
        folder = run / FOLDER
        self._begin = time.time() - seconds
        try:
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
            # a running TensorBoard forgets what it read before when it meets purge_step
            self._writer = writer(str(folder), purge_step=0)
        except OSError as error:
            raise BadRun(
                f"cannot write {folder}: {error.strerror}; free some space or choose another --out"
            ) from error
        for line in metrics.read_bytes().splitlines():
            self.write_scalars(json.loads(line))

    def write_scalars(self, line: dict[str, Any]) -> None:
        """Write every number of a line as the scalar "kind/name" at the line's step.

        Args:
            line: a line of metrics.jsonl.
        """
        for name, value in line.items():
            if name not in POSITION and type(value) in (int, float):
                wall_time = self._begin + line["seconds"]
                self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"], walltime=wall_time)

    def flush(self) -> None:
        """Write what is buffered to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
