"""qkv beside torch and three published libraries: same inputs, in one process, in turn, medians.

    pip install '.[bench]'
    python benchmarks/peers.py --markdown peers.md
    python benchmarks/peers.py --sections a c --repeats 9 --threads 2

a feature maps · b a causal window · c a whole layer · d decoding · e additive score · f how time grows ·
g memory of 131,072 tokens.  `--quick` runs all of it with tiny sizes, to see that it runs.
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
    FULL,
    Setting,
    Unmeasured,
    bounded,
    compare,
    exponent,
    in_turn,
    measure,
    peak,
    read,
    taken,
    this_machine,
)
from qkv.bench.table import figure

NOTES = (
    "performer without CUDA falls back on cumulative sums; in linear-attention-transformer no query sees its "
    "own block of 64",
)


class Sizes(NamedTuple):
    """How large everything is; QUICK only shows that it runs."""

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


class Table(NamedTuple):
    """Rows of cells below a heading, and what there is to say below them."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Options(NamedTuple):
    """What was asked for on the command line."""

    sizes: Sizes
    repeats: int
    quick: bool


def feature_maps(options: Options) -> Iterator[Table]:
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
    what = f"batch 1, {HEADS} heads of {WIDTH}, {FEATURES} features, fp32, ms"
    for backward, lengths in ((False, options.sizes.lengths), (True, options.sizes.backward)):
        passes = "forward and backward" if backward else "forward"
        found = {n: times(feature_routes(n, backward), options) for n in lengths}
        yield table(f"a. Feature maps, {passes}: {what}", found, pairs, NOTES)


def window(options: Options) -> Iterator[Table]:
    made = {n: window_routes(n) for n in options.sizes.lengths}
    ours, theirs = (made[options.sizes.lengths[0]][name] for name in ("Window", "local-attention"))
    notes = []
    if callable(ours) and callable(theirs):
        apart = (theirs() - ours()).abs().max().item()
        notes.append(f"largest difference between Window and local-attention: {apart:.1e}")
    found = {n: times(routes, options) for n, routes in made.items()}
    pairs = (("SDPA causal, all keys", "Window"), ("local-attention", "Window"))
    heading = f"b. The last {NEAR} keys and one's own, forward: batch 1, {HEADS} heads of {WIDTH}, fp32, ms"
    yield table(heading, found, pairs, notes)


def layer(options: Options) -> Iterator[Table]:
    made = layers()
    torchs, *ours = made
    pairs = [(torchs, name) for name in ours]
    for backward in (False, True):
        found = {n: times(layer_routes(n, made, backward), options) for n in options.sizes.layer}
        passes = "forward and backward" if backward else "forward"
        heading = f"c. A layer of width {HEADS * WIDTH}, {HEADS} heads, {passes}: batch 1, fp32, ms"
        yield table(heading, found, pairs)


def decoding(options: Options) -> Iterator[Table]:
    sizes = options.sizes
    setting = Setting(batch=sizes.batch, repeats=options.repeats)
    names = ["cache=softmax", "sdpa", "rfa", "favor", "elu"]
    cells = list(measure(read(names, setting), [sizes.context], ["decode"], setting))
    base = cells[0].seconds
    rows = [
        [
            cell.label,
            cell.why if cell.seconds is None else f"{sizes.batch / cell.seconds:,.0f}",
            "" if not base or not cell.seconds else f"{figure(base / cell.seconds)}×",
            f"{cell.state:,}",
        ]
        for cell in cells
    ]
    heading = (
        f"d. Decoding, whole layer, width 512, 8 heads, batch {sizes.batch}, {sizes.context:,} tokens read"
    )
    yield Table(heading, ("layer", "tokens per second", "times the cache", "bytes of state"), rows)
    rfa = list(measure(read(["rfa"], setting), sizes.contexts, ["decode"], setting))
    rows = [
        [f"{cell.length:,}", cell.why if cell.seconds is None else f"{1e3 * cell.seconds:.3f}"]
        for cell in rfa
    ]
    yield Table("d. One step of RFA, the same layer, ms", ("tokens read", "step"), rows)


def additive(options: Options) -> Iterator[Table]:
    batch, length, hidden = options.sizes.additive
    routes = additive_routes(options.sizes.additive)
    took = times(dict(routes), options)
    rows = [[name, shown(took[name]), alone(name, options)] for name in routes]
    heading = (
        f"e. Additive score, forward: batch {batch}, 1 head, {length:,} × {length:,}, hidden {hidden}, fp32"
    )
    yield Table(heading, ("route", "ms", "peak memory, MB"), rows)


def growth(options: Options) -> Iterator[Table]:
    setting = Setting(repeats=options.repeats)
    names = ["rfa", "elu", "favor", f"window={{scope: {{name: window, half_width: {NEAR}}}}}"]
    found = compare(read(names, setting), options.sizes.growth, ["forward"], setting)
    rows = []
    for contender in found.contenders:
        cells, slope = found.of("forward", contender.label), exponent(found.curve("forward", contender.label))
        told = [cell.why if cell.seconds is None else f"{1e3 * cell.seconds:,.1f}" for cell in cells]
        rows.append([contender.label, *told, "" if slope is None else f"{slope:.2f}"])
    columns = ("", *(f"{n:,}" for n in options.sizes.growth), "exponent")
    yield Table(f"f. How causal attention grows, forward: {setting}, ms", columns, rows)


def longest(options: Options) -> Iterator[Table]:
    setting, length = Setting(), options.sizes.longest
    rows = []
    for contender in read(["rfa", "favor", "elu"], setting):
        try:
            rows.append([contender.label, f"{peak('backward', contender, length, setting) / 1e6:,.0f}"])
        except Unmeasured as error:
            rows.append([contender.label, str(error)])
    held = 3 * 4 * length * setting.width / 1e6
    heading = f"g. Forward and backward of {length:,} tokens, a fresh process: {setting}"
    note = f"q, k and v, {held:,.0f} MB, come on top"
    yield Table(heading, ("", "peak memory beyond q, k and v, MB"), rows, [note])


SECTIONS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "a": feature_maps,
    "b": window,
    "c": layer,
    "d": decoding,
    "e": additive,
    "f": growth,
    "g": longest,
}


def times(routes: dict[str, Route], options: Options) -> dict[str, float | str]:
    """Milliseconds, or why there are none."""
    calls = {name: route for name, route in routes.items() if callable(route)}
    with bounded("cpu"):
        took, failed = in_turn(calls, options.repeats, tell=lambda name: print(".", end="", file=sys.stderr))
    print(file=sys.stderr)
    found: dict[str, float | str] = {name: route for name, route in routes.items() if isinstance(route, str)}
    found |= {name: 1e3 * statistics.median(seconds) for name, seconds in took.items()}
    return {name: (found | failed)[name] for name in routes}


def table(
    heading: str,
    found: dict[int, dict[str, float | str]],
    pairs: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
) -> Table:
    """Routes down, lengths across, and below them how many times as fast one of a pair is as the other."""
    columns = ("tokens", *(f"{length:,}" for length in found))
    names = list(next(iter(found.values())))
    rows = [[name, *(shown(took[name]) for took in found.values())] for name in names]
    rows += [
        [f"{theirs} / {ours}", *(ratio(took[theirs], took[ours]) for took in found.values())]
        for theirs, ours in pairs
    ]
    return Table(heading, columns, rows, notes)


def shown(took: float | str) -> str:
    return took if isinstance(took, str) else figure(took)


def ratio(theirs: float | str, ours: float | str) -> str:
    return "" if isinstance(theirs, str) or isinstance(ours, str) else f"{figure(theirs / ours)}×"


def alone(name: str, options: Options) -> str:
    """Peak memory of a route of section e in a process of its own, in MB."""
    command = [sys.executable, __file__, "--alone", name, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command + ["--quick"] * options.quick, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["failed"])[-1]
        return FULL if done.returncode < 0 or "allocate memory" in told else told
    return done.stdout.strip()


def markdown(one: Table) -> Iterator[str]:
    yield f"\n### {one.heading}\n"
    yield "| " + " | ".join(one.columns) + " |"
    yield "|" + "---|" * len(one.columns)
    yield from ("| " + " | ".join(row) + " |" for row in one.rows)
    yield from (f"\n{note}" for note in one.notes)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    ask.add_argument("--repeats", type=int, default=7)
    ask.add_argument("--threads", type=int, default=torch.get_num_threads())
    ask.add_argument("--markdown", type=Path, help="also write the tables here")
    ask.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    ask.add_argument("--alone", help=argparse.SUPPRESS)
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    options = Options(QUICK if given.quick else FULL_SIZES, given.repeats, given.quick)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if given.alone:
        with bounded("cpu"):
            additive_routes(QUICK.additive)[given.alone]()  # loads code and starts threads
            print(f"{taken(additive_routes(options.sizes.additive)[given.alone]) / 1e6:,.0f}")
        return
    command = shlex.join(["python", *sys.argv])
    lines = [f"{this_machine()}, {datetime.date.today()}", f"\n    {command}"]
    print(*lines, sep="\n", flush=True)
    for name in given.sections:
        for one in SECTIONS[name](options):
            told = list(markdown(one))
            lines += told
            print(*told, sep="\n", flush=True)
        if given.markdown:
            given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
