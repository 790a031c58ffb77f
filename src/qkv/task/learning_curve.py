"""The learning curve of a run, from its metrics.jsonl: `curve.png` in the run directory."""

import json
import math
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qkv.task.base import Recipe
from qkv.task.run_directory import read_run_recipe
from qkv.train.checkpoint import METRICS

CURVE = "curve.png"
EVERY_SECONDS = 60.0  # at the most, while a training runs: drawing takes a part of a second


def read_points(
    lines: Iterable[dict[str, Any]], kind: str, x_name: str, score: str
) -> list[tuple[float, float]]:
    """The points of a curve.

    Args:
        lines: the objects of a metrics.jsonl.
        kind: the lines that count: "train" or "validation".
        x_name: what is drawn to the right: "step" or "seconds".
        score: the name of the score.

    Returns:
        Pairs (x, score), finite ones only.
    """
    values: Iterable[Any] = (
        (line.get(x_name), line.get(score)) for line in lines if line.get("kind") == kind
    )
    return [(float(x), float(y)) for x, y in values if _is_finite(x) and _is_finite(y)]


def draw_curve_if_possible(run: Path, monitor: str | None = None) -> bool:
    """Draw the monitored score over the updates into the run directory; a failure is no error.

    Args:
        run: the run directory.
        monitor: the score that decides which weights are best; None takes that of its recipe.

    Returns:
        Whether a picture was written: not without matplotlib, and not before the second validation.
    """
    if find_spec("matplotlib") is None:
        return False
    try:
        _draw_curve(run, monitor or read_monitor(read_run_recipe(run)))
    except Exception:  # whatever matplotlib raises: a training never ends because of its picture
        return False
    return True


def read_monitor(recipe: Recipe) -> str:
    """The score that decides which weights are best.

    Args:
        recipe: the recipe of a run.
    """
    own = getattr(recipe, "monitor", None)
    return own or getattr(getattr(recipe, "validation", None), "monitor", "nll")


def draw_at_intervals(run: Path, monitor: str) -> Callable[[], None]:
    """A function that draws the curve of a running training when it is called, but seldom.

    Args:
        run: the run directory.
        monitor: the score that decides which weights are best.

    Returns:
        The function.  The validation after which it is called is not in the picture yet.
    """
    drawn_at = time.monotonic()

    def draw() -> None:
        nonlocal drawn_at
        if time.monotonic() - drawn_at >= EVERY_SECONDS:
            drawn_at = time.monotonic()
            draw_curve_if_possible(run, monitor)

    return draw


def _draw_curve(run: Path, monitor: str) -> None:
    from qkv.view.line_chart import ChartLine, draw_lines

    text = (run / METRICS).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    held_out = read_points(lines, "validation", "step", monitor)
    if len(held_out) < 2:
        raise ValueError("a curve needs two points")
    training = read_points(lines, "train", "step", monitor)
    chart = [ChartLine("held out", held_out), *([ChartLine("training", training)] if training else [])]
    draw_lines(run / CURVE, chart, "updates", monitor)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
