"""A comparison as lines of text: a table for each mode, then crossings, memory and failures."""

from collections.abc import Iterator, Sequence

from qkv.bench.calls import MODES
from qkv.bench.curves import find_crossing, fit_exponent
from qkv.bench.results import Cell, Comparison

EMPTY = "–"
SEPARATOR = "   "
RESOLUTION = 1_000_000  # bytes: a process reuses memory that it freed, so smaller peaks say nothing


def format_comparison(comparison: Comparison, columns: int = 120) -> Iterator[str]:
    """The lines of a report: contenders, tables, and the reasons of empty cells.

    Args:
        comparison: the results.
        columns: width of the terminal; wider tables are split.
    """
    width = max((len(c.label) for c in comparison.contenders), default=0)
    for contender in comparison.contenders:
        if contender.label != contender.text:
            yield f"  {contender.label:<{width}}  {contender.text}"
    for mode in comparison.modes:
        yield ""
        yield from _format_times(comparison, mode, columns)
        yield from _format_crossings(comparison, mode)
        yield from _format_reserved_memory(comparison, mode)
        if any(cell.peak is not None for cell in comparison.cells if cell.mode == mode):
            yield ""
            yield from _format_peaks(comparison, mode, columns)
    yield from _format_failures(comparison)


def format_number(value: float) -> str:
    """Three significant digits, or all digits before the point.

    >>> format_number(1234.5), format_number(0.5)
    ('1,234', '0.500')
    """
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _format_times(comparison: Comparison, mode: str, width: int) -> Iterator[str]:
    baseline = comparison.contenders[0].label
    is_decode = mode == "decode"
    units = ["tokens per second" if is_decode else "milliseconds"]
    units += [f"how many times as fast as {baseline}"] * (len(comparison.contenders) > 1)
    units += ["bytes of state"] * is_decode
    yield f"{mode}: {MODES[mode]}; {', '.join(units)}"
    seconds_by_length = dict(comparison.curve(mode, baseline))
    batch = comparison.setting.batch
    columns = [
        [
            _format_time(cell, seconds_by_length, batch, cell.label == baseline)
            for cell in comparison.select_cells(mode, c.label)
        ]
        for c in comparison.contenders
    ]
    for column in columns:
        column += [""] * (len(columns[0]) - len(column))
    for column, contender in zip(columns, comparison.contenders, strict=True):
        exponent = fit_exponent(comparison.curve(mode, contender.label))
        column.append(EMPTY if exponent is None else f"N^{exponent:.2f}")
    yield from _format_table(comparison, mode, columns, width)


def _format_time(cell: Cell, baseline: dict[int, float], batch: int, is_baseline: bool) -> str:
    """Time or throughput, the ratio to the baseline, and in decoding the size of the state."""
    if cell.seconds is None:
        return EMPTY
    text = format_number(batch / cell.seconds if cell.mode == "decode" else 1e3 * cell.seconds)
    if not is_baseline:
        ratio = baseline[cell.length] / cell.seconds if cell.length in baseline else None
        text += f" {'' if ratio is None else _format_ratio(ratio):>6}"
    return text + (f" {_format_bytes(cell.state):>8}" if cell.mode == "decode" else "")


def _format_ratio(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:#.2g}×"


def _format_peaks(comparison: Comparison, mode: str, width: int) -> Iterator[str]:
    yield f"{mode}: peak memory beyond what was there before the call"
    columns = [
        [
            _format_peak(cell, comparison.setting.device)
            for cell in comparison.select_cells(mode, contender.label)
        ]
        for contender in comparison.contenders
    ]
    yield from _format_table(comparison, mode, columns, width)


def _format_peak(cell: Cell, device: str) -> str:
    if cell.peak is None:
        return EMPTY
    is_unresolved = cell.peak < RESOLUTION and not device.startswith("cuda")
    return f"< {_format_bytes(RESOLUTION)}" if is_unresolved else _format_bytes(cell.peak)


def _format_table(
    comparison: Comparison, mode: str, columns: Sequence[Sequence[str]], width: int
) -> Iterator[str]:
    """Lengths down, contenders across. A last row without a length holds the exponents."""
    labels = [c.label for c in comparison.contenders]
    lead = ["tokens", *(f"{cell.length:,}" for cell in comparison.select_cells(mode, labels[0])), "grows as"]
    lead = _align_right(lead[: 1 + max(map(len, columns))])
    blocks: list[list[list[str]]] = []
    for label, cells in zip(labels, columns, strict=True):
        column = _align_right([label, *cells, *[""] * (len(lead) - 1 - len(cells))])
        if not blocks or _block_width([*blocks[-1], column]) > width:
            blocks.append([lead])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        yield from [""] * bool(number)
        yield from (SEPARATOR.join(row).rstrip() for row in zip(*block, strict=True))


def _block_width(columns: Sequence[Sequence[str]]) -> int:
    """Characters of a row of these columns."""
    return sum(len(column[0]) + len(SEPARATOR) for column in columns) - len(SEPARATOR)


def _align_right(cells: Sequence[str]) -> list[str]:
    return [f"{cell:>{max(map(len, cells))}}" for cell in cells]


def _format_crossings(comparison: Comparison, mode: str) -> Iterator[str]:
    baseline = comparison.contenders[0].label
    reference = comparison.curve(mode, baseline)
    seconds_by_length = dict(reference)
    for contender in comparison.contenders[1:]:
        curve = comparison.curve(mode, contender.label)
        crossing = find_crossing(reference, curve)
        shared = [(seconds, seconds_by_length[n]) for n, seconds in curve if n in seconds_by_length]
        if crossing is not None:
            speed = "faster" if crossing.faster_above else "slower"
            yield f"{contender.label} is {speed} than {baseline} above about {crossing.rounded:,} tokens"
        elif shared:
            speed = "faster" if shared[-1][0] < shared[-1][1] else "slower"
            yield f"{contender.label} is {speed} than {baseline} at every length measured"


def _format_reserved_memory(comparison: Comparison, mode: str) -> Iterator[str]:
    """Memory that contenders allocate for their longest state beyond what it holds."""
    for contender in comparison.contenders:
        cells = comparison.select_cells(mode, contender.label)
        last = next((cell for cell in reversed(cells) if cell.seconds is not None), None)
        if last is not None and last.allocated > last.state:
            yield (
                f"{contender.label} allocates {_format_bytes(last.allocated)} for "
                f"{_format_bytes(last.state)} of state at {last.length:,} tokens: room for further tokens"
            )


def _format_failures(comparison: Comparison) -> Iterator[str]:
    """For every contender and mode, the failure at the shortest length that failed."""
    failures: dict[tuple[str, str], list[Cell]] = {}
    for cell in comparison.cells:
        if cell.failure:
            failures.setdefault((cell.mode, cell.label), []).append(cell)
    if failures:
        yield ""
    for (mode, label), (cell, *longer) in failures.items():
        yield f"{EMPTY} {mode}, {label}, {cell.length:,} tokens{' and more' * bool(longer)}: {cell.failure}"


def _format_bytes(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{format_number(count / unit).rstrip('.')} {name}"
    return f"{count} B"
