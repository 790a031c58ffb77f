"""Medians of calls that take turns, so that their ratios hold even where the machine is busy."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from qkv.bench.calls import Inputs, Ready, draw, ready
from qkv.bench.machine import this_machine
from qkv.bench.memory import Unmeasured, bounded, peak, reason
from qkv.bench.results import Cell, Comparison
from qkv.bench.specs import Contender, Setting
from qkv.errors import QKVError

# What is shorter is called several times in a row, for the clock and the call around it cost something too.
LEAST_SECONDS = 2e-3
MOST_CALLS = 200
USUAL = Setting()


def compare(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    whats: Sequence[str] = ("forward",),
    setting: Setting = USUAL,
    memory: bool = False,
) -> Comparison:
    """Measure every contender at every length; what cannot be measured says why."""
    return Comparison(
        this_machine(), setting, contenders, list(measure(contenders, lengths, whats, setting, memory))
    )


def measure(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    whats: Sequence[str] = ("forward",),
    setting: Setting = USUAL,
    memory: bool = False,
    tell: Callable[[str], None] = lambda doing: None,
) -> Iterator[Cell]:
    """The same, cell by cell as they are known; `tell` hears what is being measured."""
    for what in whats:
        for length in sorted(lengths):
            with bounded(setting.device):
                cells = _at(what, length, contenders, setting, tell)
            for contender, cell in zip(contenders, cells, strict=True):
                tell(f"memory of {what}, {length:,} tokens, {contender.label}")
                yield _with_peak(cell, contender, setting) if memory and not cell.why else cell


def in_turn(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda label: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of every call in every repeat, all calls in turn, after warming up; and why some have none."""
    times: dict[str, list[float]] = {label: [] for label in calls}
    failed: dict[str, str] = {}
    counts: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for label, call in calls.items():
            if label in failed:
                continue
            tell(label)
            try:
                if repeat == 0:
                    counts[label] = _warm(call, device)
                else:
                    times[label].append(_seconds(call, counts[label], device))
            except (QKVError, RuntimeError, MemoryError) as error:
                failed[label] = reason(error)
    return {label: took for label, took in times.items() if label not in failed}, failed


def _at(
    what: str,
    length: int,
    contenders: Sequence[Contender],
    setting: Setting,
    tell: Callable[[str], None],
) -> list[Cell]:
    found: dict[str, Ready] = {}
    failed: dict[str, str] = {}
    inputs: Inputs | None = None
    for contender in contenders:
        try:
            inputs = inputs or draw(length, setting)
            found[contender.label] = ready(what, contender, inputs, setting)
        except (QKVError, RuntimeError, MemoryError) as error:
            failed[contender.label] = reason(error)
    calls = {label: one.call for label, one in found.items()}
    times, more = in_turn(
        calls, setting.repeats, setting.device, lambda label: tell(f"{what}, {length:,} tokens, {label}")
    )
    failed |= more
    return [_cell(what, length, c.label, times.get(c.label), found.get(c.label), failed) for c in contenders]


def _cell(
    what: str,
    length: int,
    label: str,
    times: list[float] | None,
    made: Ready | None,
    failed: Mapping[str, str],
) -> Cell:
    if not times or made is None:
        return Cell(what, label, length, why=failed.get(label, ""))
    each = [seconds / made.passes for seconds in times]
    spread = statistics.median(each), min(each), max(each)
    return Cell(what, label, length, *spread, state=made.state, allocated=made.allocated)


def _with_peak(cell: Cell, contender: Contender, setting: Setting) -> Cell:
    try:
        return replace(cell, peak=peak(cell.what, contender, cell.length, setting))
    except Unmeasured as error:
        return replace(cell, why=f"memory: {error}")


def _warm(call: Callable[[], Any], device: str) -> int:
    """Call until the clock says what a call takes; how many of them are worth timing together."""
    took = _seconds(call, 1, device)
    if took < 1:
        took = _seconds(call, 1, device)
    return min(max(math.ceil(LEAST_SECONDS / max(took, 1e-9)), 1), MOST_CALLS)


def _seconds(call: Callable[[], Any], count: int, device: str) -> float:
    _finish(device)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    _finish(device)
    return (time.perf_counter() - begin) / count


def _finish(device: str) -> None:
    """A GPU works on while Python goes on."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
