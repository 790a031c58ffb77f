"""Results of trainings that take long: a JSON file for each, so that a benchmark can continue, and tables."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qkv.train import METRICS

T = TypeVar("T")

ACCURACY_COLUMNS = ("accuracy", "sd", "each seed", "nll", "minutes of a seed")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> result of everything that is finished."""
    files = sorted((folder / "results").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return {file.stem: json.loads(file.read_text()) for file in files}


def write_result(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write one result."""
    write_json(folder / "results" / f"{name}.json", result)


def write_json(file: Path, result: Mapping[str, Any]) -> None:
    """Replace a file at once, so that an interruption leaves none that is incomplete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    incomplete = file.with_suffix(".incomplete")
    incomplete.write_text(json.dumps(result, indent=2))
    incomplete.replace(file)


def iterate_missing(items: Mapping[str, T], folder: Path, minutes: float | None) -> Iterator[T]:
    """The items whose names have no result yet, until so many minutes are over."""
    start, results = time.monotonic(), read_results(folder)
    for name, item in items.items():
        if name in results:
            continue
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            print(f"the {minutes:g} minutes are over: run the same command again for the others", flush=True)
            return
        yield item


def read_median(run: Path, key: str) -> float | None:
    """The median of a value over the records of a training; None if no record has it."""
    records = (json.loads(line) for line in (run / METRICS).read_text().splitlines())
    values = [record[key] for record in records if key in record]
    return statistics.median(values) if values else None


def format_seeds(values: Sequence[float], form: str) -> list[str]:
    """Mean, standard deviation and every value, one for each seed."""
    spread = f"{statistics.stdev(values):{form}}" if len(values) > 1 else "–"
    return [f"{statistics.mean(values):{form}}", spread, " ".join(f"{value:{form}}" for value in values)]


def format_accuracies(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells of ACCURACY_COLUMNS, from the scores of every seed."""
    nll, minutes = (statistics.mean(score[name] for score in scores) for name in ("nll", "minutes"))
    accuracies = format_seeds([100 * score["accuracy"] for score in scores], ".1f")
    return [*accuracies, f"{nll:.3f}", f"{minutes:.1f}"]


def draw_lines(curves: Mapping[str, Sequence[tuple[float, float]]], picture: Path, *, x: str, y: str) -> None:
    """Draw curves of (x, y) points with a logarithmic x axis; without matplotlib, say so instead."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is missing; install it with: pip install 'qkv[plot]'")
        return
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=x, ylabel=y, ylim=(0, 102))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
