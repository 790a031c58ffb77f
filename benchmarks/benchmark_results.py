"""Results of trainings that take long: one JSON file for each, so that a benchmark can be continued."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> result of everything that is finished."""
    files = sorted((folder / "results").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return {file.stem: json.loads(file.read_text()) for file in files}


def write_result(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write one result; it replaces the file at once, so an interruption leaves none that is incomplete."""
    file = folder / "results" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    incomplete = file.with_suffix(".incomplete")
    incomplete.write_text(json.dumps(result, indent=2))
    incomplete.replace(file)


def draw_lines(curves: Mapping[str, Sequence[tuple[float, float]]], picture: Path, *, x: str, y: str) -> None:
    """Draw curves of (x, y) points with a logarithmic x axis; without matplotlib, say so instead."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is missing; install it with: pip install 'qkv[plot]'")
        return
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=x, ylabel=y, ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)
