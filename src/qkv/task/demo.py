"""Runs the demo of a task: it generates data, trains on it, shows results and draws the attention."""

from pathlib import Path

from qkv.errors import UnknownName
from qkv.task.demo_options import DemoOptions
from qkv.task.registry import TASKS, find_task


def run_demo(name: str, out: Path, options: DemoOptions) -> None:
    """Run the demo of a task.

    Args:
        name: the name of the task.
        out: the folder for runs, traces and pictures; what is trained there is not trained again.
        options: the languages.

    Raises:
        BadRecipe: there is no such task.
        UnknownName: the task has no demo, or its demo has no such option.
        BadRun: a training failed.
    """
    task = find_task(name)
    if task.demo_options is None:
        names = ", ".join(each.name for each in TASKS.values() if each.demo_options is not None)
        raise UnknownName(f"the task {name!r} has no demo: choose one of {names}")
    for option, value in options._asdict().items():
        if value is not None and option not in task.demo_options:
            known = ", ".join(f"--{each}" for each in task.demo_options)
            raise UnknownName(
                f"--{option} has no meaning for the demo of the task {name!r}: leave it out. Options of "
                f"this demo: {known}"
            )
    task.run_demo(out, options)
