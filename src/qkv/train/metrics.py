"""What a training reports: sums since the last report, and metrics.jsonl."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qkv.errors import BadRun

Number = int | float


class MetricSums:
    """Sums of metrics since the last report.  Tensors stay on their device until
    `compute_totals` is called.
    """

    def __init__(self, totals: dict[str, Number] | None = None) -> None:
        """Start from these totals.

        Args:
            totals: name -> sum so far; None for no sums.
        """
        self._pending: dict[str, list[Tensor]] = {}
        self._totals: dict[str, Number] = dict(totals or {})

    def add(self, name: str, value: Tensor | Number) -> None:
        """Add to one of the sums.

        Args:
            name: the name of the sum; a new name starts at 0.
            value: a scalar.
        """
        if isinstance(value, Tensor):
            self._pending.setdefault(name, []).append(value.detach())
        else:
            self._totals[name] = self._totals.get(name, 0) + value

    def compute_totals(self) -> dict[str, Number]:
        """The sums as plain numbers, added in the order in which they came."""
        for name, values in self._pending.items():
            for value in torch.stack(values).tolist():
                self._totals[name] = self._totals.get(name, 0) + value
        self._pending.clear()
        return dict(self._totals)


def gather_sums_on_first_process(metric_sums: MetricSums, fabric: Any) -> MetricSums:
    """Move the sums of all processes to the first one.

    Args:
        metric_sums: the sums of this process.
        fabric: the launched Fabric.

    Returns:
        The sums over all processes on the first process, and no sums on the others.
    """
    if fabric.world_size == 1:
        return metric_sums
    import torch.distributed as dist

    totals_by_rank: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(totals_by_rank, metric_sums.compute_totals())
    gathered = MetricSums()
    for totals in totals_by_rank if fabric.global_rank == 0 else ():
        for name, value in totals.items():
            gathered.add(name, value)
    return gathered


def compute_means_perplexity_and_speed(totals: dict[str, Number], unit: str) -> dict[str, Number]:
    """Divide sums by what was counted; adds the speed, and perplexity where there is a log-likelihood `nll`.

    Args:
        totals: name -> sum; `tokens` is the count, `seconds` the time it took.
        unit: what is counted, in the plural.

    Returns:
        Name -> mean.
    """
    totals = dict(totals)
    tokens, seconds = totals.pop("tokens"), totals.pop("seconds")
    totals.pop("expected", None)
    values: dict[str, Number] = {name: value / tokens for name, value in totals.items()}
    if "nll" in values:
        values["ppl"] = math.exp(min(values["nll"], 700.0))
    return {**values, f"{unit}_per_second": tokens / max(seconds, 1e-9)}


class MetricsFile:
    """A file with one JSON object per line, each flushed.  A resumed training continues where its state was
    saved.
    """

    def __init__(self, path: Path, size_to_keep: int) -> None:
        """Cut the file back to a size, and append from there.

        Args:
            path: the file; a missing one is created.
            size_to_keep: the size in bytes when the state was saved; 0 for a new training.

        Raises:
            BadRun: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            size_on_disk = os.fstat(self._file.fileno()).st_size
            self._file.truncate(
                size_to_keep if size_on_disk >= size_to_keep else _count_bytes_of_complete_lines(path)
            )
        except OSError as error:
            raise BadRun(
                f"cannot write {path}: {error.strerror}; free some space or choose another --out"
            ) from error
        self._path = path

    def append_line(self, line: dict[str, Any]) -> None:
        """Append one object; numbers that are not finite become null.

        Args:
            line: plain values by name.

        Raises:
            BadRun: the file cannot be written.
        """
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in line.items()
        }
        try:
            self._file.write(json.dumps(plain).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise BadRun(
                f"cannot write {self._path}: {error.strerror}; free some space or choose another --out"
            ) from error

    def get_size_in_bytes(self) -> int:
        """The size of the file in bytes, what was there before this training included."""
        return self._path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _count_bytes_of_complete_lines(path: Path) -> int:
    """The number of bytes up to the end of the last complete line."""
    return path.read_bytes().rfind(b"\n") + 1
