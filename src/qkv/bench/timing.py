"""Median times of calls that alternate, so that their ratios hold even on a busy machine."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from qkv.bench.calls import Inputs, TimedCall, draw_inputs, prepare_call
from qkv.bench.machine import describe_machine
from qkv.bench.memory import MeasurementFailed, describe_failure, limit_memory, measure_peak
from qkv.bench.results import Cell, Comparison
from qkv.bench.specs import Contender, Setting
from qkv.errors import QKVError

# Shorter calls are timed several at a time, because reading the clock and calling cost time too.
MIN_SECONDS = 2e-3
MAX_CALLS = 200
DEFAULT_SETTING = Setting()
Report = Callable[[str], None]


def compare(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    modes: Sequence[str] = ("forward",),
    setting: Setting = DEFAULT_SETTING,
    memory: bool = False,
) -> Comparison:
    """Measure every contender at every length.

    Args:
        contenders: the attentions; the first one is the baseline.
        lengths: numbers of tokens.
        modes: keys of `qkv.bench.calls.MODES`.
        setting: what all contenders share.
        memory: also measure peak memory, each call in a fresh process.

    Returns:
        The results. A cell without a result says why.
    """
    cells = list(measure(contenders, lengths, modes, setting, memory))
    return Comparison(describe_machine(), setting, contenders, cells)


def measure(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    modes: Sequence[str] = ("forward",),
    setting: Setting = DEFAULT_SETTING,
    memory: bool = False,
    report: Report = lambda step: None,
) -> Iterator[Cell]:
    """The cells of `compare`, one by one as they are measured.

    Args:
        contenders: the attentions.
        lengths: numbers of tokens.
        modes: keys of `qkv.bench.calls.MODES`.
        setting: what all contenders share.
        memory: also measure peak memory.
        report: is called with a description of each step before it starts.
    """
    for mode in modes:
        for length in sorted(lengths):
            with limit_memory(setting.device):
                cells = _measure_length(mode, length, contenders, setting, report)
            for contender, cell in zip(contenders, cells, strict=True):
                report(f"memory of {mode}, {length:,} tokens, {contender.label}")
                yield _add_peak(cell, contender, setting) if memory and not cell.failure else cell


def time_calls(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    report: Report = lambda label: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time calls in alternation: every repeat makes each call once, after one repeat to warm up.

    Args:
        calls: label -> function.
        repeats: timed repeats.
        device: the clock waits for a CUDA device.
        report: is called with the label before each call.

    Returns:
        Label -> seconds of every repeat, and label -> failure of the calls that failed.
    """
    times: dict[str, list[float]] = {label: [] for label in calls}
    failures: dict[str, str] = {}
    counts: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for label, call in calls.items():
            if label in failures:
                continue
            report(label)
            try:
                if repeat == 0:
                    counts[label] = _warm_up(call, device)
                else:
                    times[label].append(_time_call(call, counts[label], device))
            except (QKVError, RuntimeError, MemoryError) as error:
                failures[label] = describe_failure(error)
    return {label: seconds for label, seconds in times.items() if label not in failures}, failures


def _measure_length(
    mode: str,
    length: int,
    contenders: Sequence[Contender],
    setting: Setting,
    report: Report,
) -> list[Cell]:
    timed_calls: dict[str, TimedCall] = {}
    failures: dict[str, str] = {}
    inputs: Inputs | None = None
    for contender in contenders:
        try:
            inputs = inputs or draw_inputs(length, setting)
            timed_calls[contender.label] = prepare_call(mode, contender, inputs, setting)
        except (QKVError, RuntimeError, MemoryError) as error:
            failures[contender.label] = describe_failure(error)
    calls = {label: timed_call.call for label, timed_call in timed_calls.items()}
    times, call_failures = time_calls(
        calls, setting.repeats, setting.device, lambda label: report(f"{mode}, {length:,} tokens, {label}")
    )
    failures |= call_failures
    return [
        _make_cell(Cell(mode, c.label, length), times.get(c.label), timed_calls.get(c.label), failures)
        for c in contenders
    ]


def _make_cell(
    cell: Cell,
    times: list[float] | None,
    timed_call: TimedCall | None,
    failures: Mapping[str, str],
) -> Cell:
    """The empty cell with the result of its call, or with its failure."""
    if not times or timed_call is None:
        return replace(cell, failure=failures.get(cell.label, ""))
    seconds = [total / timed_call.passes for total in times]
    return replace(
        cell,
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        state=timed_call.state,
        allocated=timed_call.allocated,
    )


def _add_peak(cell: Cell, contender: Contender, setting: Setting) -> Cell:
    try:
        return replace(cell, peak=measure_peak(cell.mode, contender, cell.length, setting))
    except MeasurementFailed as error:
        return replace(cell, failure=f"memory: {error}")


def _warm_up(call: Callable[[], Any], device: str) -> int:
    """Call once or twice; return the number of calls to time together."""
    seconds = _time_call(call, 1, device)
    if seconds < 1:
        seconds = _time_call(call, 1, device)
    return min(max(math.ceil(MIN_SECONDS / max(seconds, 1e-9)), 1), MAX_CALLS)


def _time_call(call: Callable[[], Any], count: int, device: str) -> float:
    """Seconds of one call, as the mean of `count` calls in a row."""
    _synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    _synchronize(device)
    return (time.perf_counter() - begin) / count


def _synchronize(device: str) -> None:
    """Wait for a GPU, which works asynchronously."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
