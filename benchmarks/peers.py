"""Times qkv, torch and three published libraries on the same inputs in one process, in alternation.

    pip install '.[bench]'
    python benchmarks/peers.py --markdown peers.md
    python benchmarks/peers.py --sections a c --repeats 9 --threads 2

a feature maps · b a causal window · c a whole layer · d decoding · e additive score · f how time grows ·
g memory of 131,072 tokens. All times are medians. `--quick` runs everything with tiny sizes as a smoke test.
"""

import argparse
import datetime
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from markdown_tables import Table, format_markdown
from peer_routes import (
    FEATURES,
    HEADS,
    NEAR,
    WIDTH,
    Route,
    additive_routes,
    feature_routes,
    layer_routes,
    layers,
    window_routes,
)

from qkv.bench import (
    OUT_OF_MEMORY,
    MeasurementFailed,
    Setting,
    compare,
    describe_machine,
    fit_exponent,
    limit_memory,
    measure,
    measure_memory,
    measure_peak,
    read_contenders,
    time_calls,
)
from qkv.bench.table import format_number

NOTES = (
    "performer without CUDA falls back on cumulative sums; in linear-attention-transformer no query sees its "
    "own block of 64",
)


class Sizes(NamedTuple):
    """The sizes of every section; QUICK is for a smoke test."""

    lengths: Sequence[int] = (512, 1024, 2048, 4096, 8192, 16384)
    backward: Sequence[int] = (512, 1024, 4096)
    layer: Sequence[int] = (64, 512, 2048)
    context: int = 2048
    batch: int = 16
    contexts: Sequence[int] = (1024, 65536)
    additive: tuple[int, int, int] = (8, 1024, 256)
    growth: Sequence[int] = (4096, 8192, 16384, 32768, 65536)
    longest: int = 131072


FULL_SIZES = Sizes()
QUICK = Sizes((128, 256), (128,), (16, 32), 32, 2, (16, 64), (2, 32, 8), (256, 512), 1024)


class Options(NamedTuple):
    """The options of the command line that sections need."""

    sizes: Sizes
    repeats: int
    quick: bool


def time_feature_maps(options: Options) -> Iterator[Table]:
    pairs = (
        ("SDPA causal", "RFA causal"),
        ("SDPA causal", "RFA gated"),
        ("SDPA causal", "RFA arccos"),
        ("SDPA both ways", "RFA both ways"),
        ("performer causal", "Favor causal"),
        ("performer causal", "RFA causal"),
        ("performer causal, its own 266", "RFA causal"),
        ("SDPA causal", "RFA causal, torch route"),
    )
    sizes = f"batch 1, {HEADS} heads of {WIDTH}, {FEATURES} features, fp32, ms"
    for backward, lengths in ((False, options.sizes.lengths), (True, options.sizes.backward)):
        passes = "forward and backward" if backward else "forward"
        times = {n: time_routes(feature_routes(n, backward), options) for n in lengths}
        yield make_table(f"a. Feature maps, {passes}: {sizes}", times, pairs, NOTES)


def time_windows(options: Options) -> Iterator[Table]:
    routes_by_length = {n: window_routes(n) for n in options.sizes.lengths}
    ours, theirs = (
        routes_by_length[options.sizes.lengths[0]][name] for name in ("Window", "local-attention")
    )
    notes = []
    if callable(ours) and callable(theirs):
        difference = (theirs() - ours()).abs().max().item()
        notes.append(f"largest difference between Window and local-attention: {difference:.1e}")
    times = {n: time_routes(routes, options) for n, routes in routes_by_length.items()}
    pairs = (("SDPA causal, all keys", "Window"), ("local-attention", "Window"))
    heading = f"b. The last {NEAR} keys and one's own, forward: batch 1, {HEADS} heads of {WIDTH}, fp32, ms"
    yield make_table(heading, times, pairs, notes)


def time_layers(options: Options) -> Iterator[Table]:
    modules = layers()
    baseline, *ours = modules
    pairs = [(baseline, name) for name in ours]
    for backward in (False, True):
        times = {n: time_routes(layer_routes(n, modules, backward), options) for n in options.sizes.layer}
        passes = "forward and backward" if backward else "forward"
        heading = f"c. A layer of width {HEADS * WIDTH}, {HEADS} heads, {passes}: batch 1, fp32, ms"
        yield make_table(heading, times, pairs)


def time_decoding(options: Options) -> Iterator[Table]:
    sizes = options.sizes
    setting = Setting(batch=sizes.batch, repeats=options.repeats)
    names = ["cache=softmax", "sdpa", "rfa", "favor", "elu"]
    cells = list(measure(read_contenders(names, setting), [sizes.context], ["decode"], setting))
    baseline = cells[0].seconds
    rows = [
        [
            cell.label,
            cell.failure if cell.seconds is None else f"{sizes.batch / cell.seconds:,.0f}",
            "" if not baseline or not cell.seconds else f"{format_number(baseline / cell.seconds)}×",
            f"{cell.state:,}",
        ]
        for cell in cells
    ]
    heading = (
        f"d. Decoding, whole layer, width 512, 8 heads, batch {sizes.batch}, {sizes.context:,} tokens read"
    )
    yield Table(heading, ("layer", "tokens per second", "times the cache", "bytes of state"), rows)
    rfa = list(measure(read_contenders(["rfa"], setting), sizes.contexts, ["decode"], setting))
    rows = [
        [f"{cell.length:,}", cell.failure if cell.seconds is None else f"{1e3 * cell.seconds:.3f}"]
        for cell in rfa
    ]
    yield Table("d. One step of RFA, the same layer, ms", ("tokens read", "step"), rows)


def time_additive(options: Options) -> Iterator[Table]:
    batch, length, hidden = options.sizes.additive
    routes = additive_routes(options.sizes.additive)
    times = time_routes(dict(routes), options)
    rows = [[name, format_time(times[name]), measure_route_memory(name, options)] for name in routes]
    heading = (
        f"e. Additive score, forward: batch {batch}, 1 head, {length:,} × {length:,}, hidden {hidden}, fp32"
    )
    yield Table(heading, ("route", "ms", "peak memory, MB"), rows)


def time_growth(options: Options) -> Iterator[Table]:
    setting = Setting(repeats=options.repeats)
    names = ["rfa", "elu", "favor", f"window={{scope: {{name: window, half_width: {NEAR}}}}}"]
    comparison = compare(read_contenders(names, setting), options.sizes.growth, ["forward"], setting)
    rows = []
    for contender in comparison.contenders:
        cells = comparison.select_cells("forward", contender.label)
        exponent = fit_exponent(comparison.curve("forward", contender.label))
        milliseconds = [
            cell.failure if cell.seconds is None else f"{1e3 * cell.seconds:,.1f}" for cell in cells
        ]
        rows.append([contender.label, *milliseconds, "" if exponent is None else f"{exponent:.2f}"])
    columns = ("", *(f"{n:,}" for n in options.sizes.growth), "exponent")
    yield Table(f"f. How causal attention grows, forward: {setting}, ms", columns, rows)


def measure_longest(options: Options) -> Iterator[Table]:
    setting, length = Setting(), options.sizes.longest
    rows = []
    for contender in read_contenders(["rfa", "favor", "elu"], setting):
        try:
            peak = measure_peak("backward", contender, length, setting)
            rows.append([contender.label, f"{peak / 1e6:,.0f}"])
        except MeasurementFailed as error:
            rows.append([contender.label, str(error)])
    inputs = 3 * 4 * length * setting.width / 1e6
    heading = f"g. Forward and backward of {length:,} tokens, a fresh process: {setting}"
    note = f"q, k and v, {inputs:,.0f} MB, come on top"
    yield Table(heading, ("", "peak memory beyond q, k and v, MB"), rows, [note])


SECTIONS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "a": time_feature_maps,
    "b": time_windows,
    "c": time_layers,
    "d": time_decoding,
    "e": time_additive,
    "f": time_growth,
    "g": measure_longest,
}


def time_routes(routes: dict[str, Route], options: Options) -> dict[str, float | str]:
    """The milliseconds of every route, or the reason why it has none."""
    calls = {name: route for name, route in routes.items() if callable(route)}
    with limit_memory("cpu"):
        times, failures = time_calls(
            calls, options.repeats, report=lambda name: print(".", end="", file=sys.stderr)
        )
    print(file=sys.stderr)
    results: dict[str, float | str] = {
        name: route for name, route in routes.items() if isinstance(route, str)
    }
    results |= {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    return {name: (results | failures)[name] for name in routes}


def make_table(
    heading: str,
    times: dict[int, dict[str, float | str]],
    pairs: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
) -> Table:
    """A table with routes down and lengths across; below them the ratio of the times of each pair."""
    columns = ("tokens", *(f"{length:,}" for length in times))
    names = list(next(iter(times.values())))
    rows = [[name, *(format_time(column[name]) for column in times.values())] for name in names]
    rows += [
        [f"{theirs} / {ours}", *(format_ratio(column[theirs], column[ours]) for column in times.values())]
        for theirs, ours in pairs
    ]
    return Table(heading, columns, rows, notes)


def format_time(time: float | str) -> str:
    return time if isinstance(time, str) else format_number(time)


def format_ratio(theirs: float | str, ours: float | str) -> str:
    return "" if isinstance(theirs, str) or isinstance(ours, str) else f"{format_number(theirs / ours)}×"


def measure_route_memory(name: str, options: Options) -> str:
    """Peak memory of a route of section e in a fresh process, in MB."""
    command = [sys.executable, __file__, "--alone", name, "--threads", str(torch.get_num_threads())]
    process = subprocess.run(
        command + ["--quick"] * options.quick, capture_output=True, text=True, check=False
    )
    if process.returncode:
        message = (process.stderr.strip().splitlines() or ["failed"])[-1]
        return OUT_OF_MEMORY if process.returncode < 0 or "allocate memory" in message else message
    return process.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = Options(QUICK if arguments.quick else FULL_SIZES, arguments.repeats, arguments.quick)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if arguments.alone:
        with limit_memory("cpu"):
            additive_routes(QUICK.additive)[arguments.alone]()  # loads code and starts threads
            print(f"{measure_memory(additive_routes(options.sizes.additive)[arguments.alone]) / 1e6:,.0f}")
        return
    command = shlex.join(["python", *sys.argv])
    lines = [f"{describe_machine()}, {datetime.date.today()}", f"\n    {command}"]
    print(*lines, sep="\n", flush=True)
    for name in arguments.sections:
        for table in SECTIONS[name](options):
            table_lines = list(format_markdown(table))
            lines += table_lines
            print(*table_lines, sep="\n", flush=True)
        if arguments.markdown:
            arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
