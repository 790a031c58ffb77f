"""The demos: each generates data, trains on it, shows results and draws the attention."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from qkv.errors import UnknownName, did_you_mean
from qkv.task.generate.demo import run_demo as run_generate_demo
from qkv.task.translate.demo import run_demo as run_translate_demo


class DemoOptions(NamedTuple):
    """The options of `qkv demo`.

    Args:
        source: the language to read, as Babel names it; None takes the demo's own.
        target: the language to write; None takes the demo's own.
    """

    source: str | None = None
    target: str | None = None


class Demo(NamedTuple):
    """The demo of a task.

    Args:
        options: names of the fields of `DemoOptions` that it takes.
        run: called with the folder for its output and with the options.
    """

    options: tuple[str, ...]
    run: Callable[[Path, DemoOptions], None]


DEMOS = {
    "translate": Demo(
        ("source", "target"),
        lambda out, options: run_translate_demo(out, options.source or "en", options.target or "fr"),
    ),
    "generate": Demo(("target",), lambda out, options: run_generate_demo(out, options.target or "en")),
}


def run_demo(task: str, out: Path, options: DemoOptions) -> None:
    """Run the demo of a task.

    Args:
        task: the name of the task.
        out: the folder for runs, traces and pictures; what is trained there is not trained again.
        options: the languages.

    Raises:
        UnknownName: there is no such demo, or it has no such option.
        BadRun: a training failed.
    """
    demo = DEMOS.get(task)
    if demo is None:
        raise UnknownName(f"there is no demo of the task {task!r}. {did_you_mean(task, DEMOS)}")
    for option, value in options._asdict().items():
        if value is not None and option not in demo.options:
            known = ", ".join(f"--{each}" for each in demo.options)
            raise UnknownName(
                f"--{option} has no meaning for the demo of the task {task!r}: leave it out. Options of this "
                f"demo: {known}"
            )
    demo.run(out, options)
