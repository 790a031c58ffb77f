"""Times `SelfAttention2d` on a grid of 128×128 cells: softmax, neighbourhoods and RFA, forward and backward.

    python benchmarks/grid_attention.py --markdown grid.md
    python benchmarks/grid_attention.py --quick      # a small grid, as a smoke test

Every row runs in processes of its own, on one thread.  Time is that of the processor, the least of the
repeats, so that other processes matter little.  Memory is what the first call takes beyond the memory in use.

Counted for N = 16,384 cells, 64 channels and one head, forward:

    row                     multiply-adds of attention            tensors beside q, k, v and out (4 MB each)
    softmax, weights        N² (D + E)             = 34.4 G       scores and weights, N² floats each: 2,147 MB
    softmax                 N² (D + E)             = 34.4 G       none: the fused operator keeps no weights
    SAGAN                   N·N/4 (32 + 32)        =  4.3 G       none; q and k are padded to the width of v
    Neighbourhood, r = 3    N (8 + 2r)² (D + E)    =  0.41 G      k, v and mask per tile: 13 + 13 + 13 MB
    Neighbourhood, r = 7    the same               =  1.0 G       32 + 32 + 32 MB
    RFA, R = 64             2N D R + 4N R (E + 1)  =  0.41 G      φ of a block of cells, or all: 2 · 8 MB
    the four convolutions   4N C²                  =  0.27 G      their results, 4 MB each

Softmax must also compute N² = 268 M exponentials, and RFA 2·N·R = 2 M sines and cosines each.  So the
prediction from multiply-adds alone, with the convolutions: against fused softmax, r = 3 is 51 times as fast,
r = 7 27 times, RFA 51 times and SAGAN 8 times; less where small products run below the speed of large ones.
The backward pass has 2.5 times the multiply-adds of the forward pass in every row, and 2 times those of the
convolutions, so the ratios stay.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from markdown_tables import Table, format_markdown
from torch import Tensor

from qkv import RFA, Neighbourhood, SelfAttention2d
from qkv.bench import describe_machine, limit_memory, measure_memory
from qkv.bench.table import format_number

Layer = Callable[[Tensor], Tensor]
WARM_UP_SIDE = 16
ROWS = (
    "softmax, weights formed",
    "softmax",
    "SAGAN: C/8, C/2, pooled keys",
    "Neighbourhood, radius 3",
    "Neighbourhood, radius 7",
    "RFA(64)",
)
BASELINE = "softmax"


def build_layer(row: str, side: int, channels: int) -> Layer:
    if row.startswith("SAGAN"):
        return SelfAttention2d.sagan(channels)
    if row.startswith("Neighbourhood"):
        scope = Neighbourhood(side, side, int(row.rsplit(" ", 1)[1]))
        return SelfAttention2d(channels, scope=scope)
    if row == "RFA(64)":
        return SelfAttention2d(channels, kernel=RFA(64))
    layer = SelfAttention2d(channels)
    return layer if row == BASELINE else lambda x: form_weights(layer, x)


def form_weights(layer: SelfAttention2d, x: Tensor) -> Tensor:
    """The same attention as three operators, as published modules compute it."""
    q, k, v = (convolution(x).flatten(2).mT for convolution in (layer.to_q, layer.to_k, layer.to_v))
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return x + layer.to_out((weights @ v).mT.unflatten(2, x.shape[2:]))


def make_call(row: str, side: int, channels: int, backward: bool) -> Callable[[], Any]:
    layer, x = build_layer(row, side, channels), torch.randn(1, channels, side, side)
    if not backward:
        return lambda: _run_without_gradients(layer, x)
    x.requires_grad_()
    return lambda: layer(x).sum().backward()


def _run_without_gradients(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def measure_row(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the processor, and the peak memory of the first call in bytes."""
    make_call(options.row, WARM_UP_SIDE, options.channels, options.backward)()  # loads code
    call = make_call(options.row, options.side, options.channels, options.backward)
    with limit_memory("cpu"):
        peak = measure_memory(call)
        seconds = [_time_call(call) for _ in range(options.repeats)]
    return {"seconds": min(seconds), "peak": peak}


def _time_call(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def run_in_own_process(row: str, backward: bool, options: argparse.Namespace) -> dict[str, float] | None:
    """What `measure_row` returns; None where the row failed."""
    command = [sys.executable, __file__, "--row", row, "--side", str(options.side)]
    command += ["--channels", str(options.channels), "--repeats", str(options.repeats)]
    command += ["--backward"] * backward
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        print(f"{row}: {process.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(process.stdout)


def make_table(options: argparse.Namespace) -> Iterator[Table]:
    results = {
        (row, backward): run_in_own_process(row, backward, options)
        for row in ROWS
        for backward in (False, True)
    }
    rows = []
    for row in ROWS:
        cells = [row]
        for backward in (False, True):
            result, baseline = results[row, backward], results[BASELINE, backward]
            cells += ["failed"] * 3 if result is None or baseline is None else _format(result, baseline)
        rows.append(cells)
    columns = ["", "forward, ms", "as fast as softmax", "MB"]
    columns += ["forward and backward, ms", "as fast as softmax", "MB"]
    grid = f"{options.side}×{options.side}"
    yield Table(f"SelfAttention2d on a grid of {grid} cells, {options.channels} channels", columns, rows)


def _format(result: dict[str, float], baseline: dict[str, float]) -> list[str]:
    ratio = baseline["seconds"] / result["seconds"]
    return [
        format_number(1e3 * result["seconds"]),
        f"{format_number(ratio)}×",
        format_number(result["peak"] / 1e6),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--quick", action="store_true", help="a small grid, as a smoke test")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.row:
        print(json.dumps(measure_row(options)))
        return
    if options.quick:
        options.side, options.repeats = 32, 1
    lines = [f"{describe_machine()}, {datetime.date.today()}", f"\n    {shlex.join(['python', *sys.argv])}"]
    for table in make_table(options):
        lines += format_markdown(table)
    print(*lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
