"""Compares `qkv.attention` with torch's fused attention: overhead at 16 tokens, speed and memory at 16,384.

python benchmarks/functional.py --markdown functional.md
python benchmarks/functional.py --quick          # tiny sizes, as a smoke test
"""

import argparse
import datetime
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from markdown_tables import Table, format_markdown
from torch import Tensor

import qkv
from qkv.bench import describe_machine, limit_memory, measure_memory, time_calls
from qkv.bench.table import format_number

HEADS, WIDTH = 8, 64
RFA, WINDOW = qkv.RFA(64), qkv.Window(128)
Call = Callable[[], Any]
# (route, baseline): the table shows how many times as fast the route is as its baseline.
RATIOS = (
    ("RFA causal", "SDPA causal"),
    ("RFA both ways", "SDPA both ways"),
    ("window of 128", "SDPA causal"),
    ("RFA causal, forward and backward", "SDPA causal, forward and backward"),
)


def make_short_calls(tokens: int) -> dict[str, Call]:
    q, k, v = draw_inputs(tokens)
    return {
        "SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "attention, softmax": lambda: qkv.attention(q, k, v, causal=True),
        "attention, RFA": lambda: qkv.attention(q, k, v, kernel=RFA, causal=True),
        "attend, softmax": lambda: qkv.attend(q, k, v, causal=True),
        "attend, RFA": lambda: qkv.attend(q, k, v, kernel=RFA, causal=True),
    }


def make_long_calls(tokens: int) -> dict[str, Call]:
    q, k, v = draw_inputs(tokens)
    leaves = q1, k1, v1 = [x.clone().requires_grad_() for x in (q, k, v)]
    return {
        "SDPA causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "SDPA both ways": lambda: F.scaled_dot_product_attention(q, k, v),
        "RFA causal": lambda: qkv.attention(q, k, v, kernel=RFA, causal=True),
        "RFA both ways": lambda: qkv.attention(q, k, v, kernel=RFA),
        "window of 128": lambda: qkv.attention(q, k, v, scope=WINDOW, causal=True),
        "SDPA causal, forward and backward": lambda: compute_gradients(
            F.scaled_dot_product_attention(q1, k1, v1, is_causal=True), leaves
        ),
        "RFA causal, forward and backward": lambda: compute_gradients(
            qkv.attention(q1, k1, v1, kernel=RFA, causal=True), leaves
        ),
    }


def draw_inputs(tokens: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(1, HEADS, tokens, WIDTH) for _ in range(3))


def compute_gradients(out: Tensor, leaves: list[Tensor]) -> Any:
    return torch.autograd.grad(out.sum(), leaves)


def time_medians(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    with limit_memory("cpu"):
        seconds, failures = time_calls(calls, repeats)
    for name, reason in failures.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return {name: statistics.median(times) for name, times in seconds.items()}


def make_tables(tokens: int, short: int, repeats: int) -> Iterator[Table]:
    times = time_medians(make_short_calls(short), 5 * repeats)
    rows = [
        [name, format_number(1e6 * t), f"{format_number(t / times['SDPA'])}×"] for name, t in times.items()
    ]
    yield Table(f"A call at {short} tokens, causal", ("", "µs", "of SDPA's time"), rows)
    times = time_medians(make_long_calls(tokens), repeats)
    speedups = {ours: f"{format_number(times[theirs] / times[ours])}×" for ours, theirs in RATIOS}
    memory = {name: measure_peak_memory(name, tokens) for name in times}
    rows = [[name, format_number(1e3 * t), speedups.get(name, ""), memory[name]] for name, t in times.items()]
    columns = ("", "ms", "as fast as SDPA", "peak memory beyond q, k and v, MB")
    yield Table(f"{tokens:,} tokens", columns, rows)


def measure_peak_memory(name: str, tokens: int) -> str:
    """Peak memory of one call in a fresh process, in MB."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--memory-of", name, "--tokens", str(tokens), "--threads", threads]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokens = 256 if options.quick else options.tokens
    if options.memory_of:
        make_long_calls(64)[options.memory_of]()  # loads code and starts threads
        print(f"{measure_memory(make_long_calls(tokens)[options.memory_of]) / 1e6:,.0f}")
        return
    lines = [f"{describe_machine()}, {datetime.date.today()}", f"\n    {shlex.join(['python', *sys.argv])}"]
    for table in make_tables(tokens, 16, options.repeats):
        lines += format_markdown(table)
    print(*lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
