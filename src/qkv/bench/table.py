"""A comparison as lines of text: a table for each thing that was timed, then what the curves say."""

from collections.abc import Iterator, Sequence

from qkv.bench.calls import WHATS
from qkv.bench.curves import crossing, exponent
from qkv.bench.results import Cell, Comparison

NONE = "–"
BETWEEN = "   "
COARSE = 1_000_000


def lines_of(comparison: Comparison, columns: int = 120) -> Iterator[str]:
    """The contenders, the tables, and why cells are empty; wide tables in parts of so many columns."""
    width = max((len(c.label) for c in comparison.contenders), default=0)
    for contender in comparison.contenders:
        if contender.label != contender.written:
            yield f"  {contender.label:<{width}}  {contender.written}"
    for what in comparison.whats:
        yield ""
        yield from _times(comparison, what, columns)
        yield from _crossings(comparison, what)
        yield from _reserved(comparison, what)
        if any(cell.peak is not None for cell in comparison.cells if cell.what == what):
            yield ""
            yield from _peaks(comparison, what, columns)
    yield from _reasons(comparison)


def figure(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _times(comparison: Comparison, what: str, room: int) -> Iterator[str]:
    first = comparison.contenders[0].label
    decode = what == "decode"
    told = ["tokens per second" if decode else "milliseconds"]
    told += [f"how many times as fast as {first}"] * (len(comparison.contenders) > 1)
    told += ["bytes of state"] * decode
    yield f"{what}: {WHATS[what]}; {', '.join(told)}"
    reference = dict(comparison.curve(what, first))
    batch = comparison.setting.batch
    columns = [
        [_time(cell, reference, batch, cell.label == first) for cell in comparison.of(what, c.label)]
        for c in comparison.contenders
    ]
    for column in columns:
        column += [""] * (len(columns[0]) - len(column))
    for column, contender in zip(columns, comparison.contenders, strict=True):
        slope = exponent(comparison.curve(what, contender.label))
        column.append(NONE if slope is None else f"N^{slope:.2f}")
    yield from _table(comparison, what, columns, room)


def _time(cell: Cell, reference: dict[int, float], batch: int, first: bool) -> str:
    if cell.seconds is None:
        return NONE
    told = figure(batch / cell.seconds if cell.what == "decode" else 1e3 * cell.seconds)
    if not first:
        times = reference[cell.length] / cell.seconds if cell.length in reference else None
        told += f" {'' if times is None else _ratio(times):>6}"
    return told + (f" {_size(cell.state):>8}" if cell.what == "decode" else "")


def _ratio(times: float) -> str:
    return f"{times:,.0f}×" if times >= 9.95 else f"{times:#.2g}×"


def _peaks(comparison: Comparison, what: str, room: int) -> Iterator[str]:
    yield f"{what}: peak memory beyond what was there before the call"
    columns = [
        [_peak(cell, comparison.setting.device) for cell in comparison.of(what, c.label)]
        for c in comparison.contenders
    ]
    yield from _table(comparison, what, columns, room)


def _peak(cell: Cell, device: str) -> str:
    if cell.peak is None:
        return NONE
    # What a process occupies tells nothing of an allocation that fits into what it has freed before.
    coarse = cell.peak < COARSE and not device.startswith("cuda")
    return f"< {_size(COARSE)}" if coarse else _size(cell.peak)


def _table(comparison: Comparison, what: str, columns: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    """Lengths down, contenders across; a last row without a length says how time grows."""
    labels = [c.label for c in comparison.contenders]
    lead = ["tokens", *(f"{cell.length:,}" for cell in comparison.of(what, labels[0])), "grows as"]
    lead = _aligned(lead[: 1 + max(map(len, columns))])
    blocks: list[list[list[str]]] = []
    for label, cells in zip(labels, columns, strict=True):
        column = _aligned([label, *cells, *[""] * (len(lead) - 1 - len(cells))])
        if not blocks or sum(len(c[0]) + len(BETWEEN) for c in (*blocks[-1], column)) > room + len(BETWEEN):
            blocks.append([lead])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        yield from [""] * bool(number)
        yield from (BETWEEN.join(row).rstrip() for row in zip(*block, strict=True))


def _aligned(cells: Sequence[str]) -> list[str]:
    return [f"{cell:>{max(map(len, cells))}}" for cell in cells]


def _crossings(comparison: Comparison, what: str) -> Iterator[str]:
    first = comparison.contenders[0].label
    reference = comparison.curve(what, first)
    for contender in comparison.contenders[1:]:
        curve = comparison.curve(what, contender.label)
        met = crossing(reference, curve)
        shared = [(s, dict(reference)[n]) for n, s in curve if n in dict(reference)]
        if met is not None:
            how = "faster" if met.faster_above else "slower"
            yield f"{contender.label} is {how} than {first} above about {met.rounded:,} tokens"
        elif shared:
            how = "faster" if shared[-1][0] < shared[-1][1] else "slower"
            yield f"{contender.label} is {how} than {first} at every length measured"


def _reserved(comparison: Comparison, what: str) -> Iterator[str]:
    """What contenders allocate for their longest state beyond what it holds."""
    for contender in comparison.contenders:
        cells = comparison.of(what, contender.label)
        last = next((cell for cell in reversed(cells) if cell.seconds is not None), None)
        if last is not None and last.allocated > last.state:
            yield (
                f"{contender.label} allocates {_size(last.allocated)} for {_size(last.state)} of state at "
                f"{last.length:,} tokens: room for further tokens"
            )


def _reasons(comparison: Comparison) -> Iterator[str]:
    """What was in the way at the first length at which something was."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in comparison.cells:
        if cell.why:
            found.setdefault((cell.what, cell.label), []).append(cell)
    if found:
        yield ""
    for (what, label), (cell, *more) in found.items():
        yield f"{NONE} {what}, {label}, {cell.length:,} tokens{' and more' * bool(more)}: {cell.why}"


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{figure(count / unit).rstrip('.')} {name}"
    return f"{count} B"
