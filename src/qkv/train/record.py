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


class Tally:
    """Sums over the tokens since the last report, on the device until somebody asks."""

    def __init__(self, sums: dict[str, Number] | None = None) -> None:
        self._waiting: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Number] = dict(sums or {})

    def add(self, name: str, value: Tensor | Number) -> None:
        """Add to the sum of this name."""
        if isinstance(value, Tensor):
            self._waiting.setdefault(name, []).append(value.detach())
        else:
            self._sums[name] = self._sums.get(name, 0) + value

    def sums(self) -> dict[str, Number]:
        """The sums so far as plain numbers, added in the order they came."""
        for name, values in self._waiting.items():
            for value in torch.stack(values).tolist():
                self._sums[name] = self._sums.get(name, 0) + value
        self._waiting.clear()
        return dict(self._sums)


def gather(tally: Tally, fabric: Any) -> Tally:
    """A tally with the sums of all processes on the first one, and an empty one on the others."""
    if fabric.world_size == 1:
        return tally
    import torch.distributed as dist

    everyone: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(everyone, tally.sums())
    whole = Tally()
    for sums in everyone if fabric.global_rank == 0 else ():
        for name, value in sums.items():
            whole.add(name, value)
    return whole


def means(sums: dict[str, Number], unit: str) -> dict[str, Number]:
    """Means of a tally's sums over what was counted, with perplexity where there is a log-likelihood `nll`.

    `tokens` is the count, `seconds` the time it took; `unit` names what is counted.
    """
    sums = dict(sums)
    tokens, seconds = sums.pop("tokens"), sums.pop("seconds")
    sums.pop("expected", None)
    values: dict[str, Number] = {name: value / tokens for name, value in sums.items()}
    if "nll" in values:
        values["ppl"] = math.exp(min(values["nll"], 700.0))
    return {**values, f"{unit}_per_second": tokens / max(seconds, 1e-9)}


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


class MetricsFile:
    """Lines of JSON, each flushed; a resumed training goes on where its state was saved."""

    def __init__(self, path: Path, start: int) -> None:
        """Cut the file at `path` back to `start` bytes and append from there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            size = os.fstat(self._file.fileno()).st_size
            self._file.truncate(start if size >= start else _whole_lines(path))
        except OSError as error:
            raise BadRun(f"cannot write {path}: {error.strerror}") from error
        self._path = path

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; what is not a finite number becomes null."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in line.items()
        }
        try:
            self._file.write(json.dumps(plain).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise BadRun(f"cannot write {self._path}: {error.strerror}") from error

    def size(self) -> int:
        """Bytes written so far, those before the start included."""
        return self._path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
