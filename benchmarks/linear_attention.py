"""Times causal attention: torch's softmax, and feature maps on torch operators and on the native engine.

    python benchmarks/linear_attention.py --lengths 256 1024 16384 --backward

Every number is the median of the repeats, in milliseconds. All routes of a length alternate, so that ratios
hold even on a busy machine. `bound` is the time of the multiply-adds and sines of the native route on all
threads, at the speeds measured in the same run.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.kernel import RFA, Elu, Favor, backends, native
from qkv.kernel.masking import Masking
from qkv.kernel.native.library import measure_peak_rates_of_one_thread
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

H, D, R = 8, 64, 64
ROUTES = ("sdpa", "torch", "native", "arccos", "gated", "favor", "elu", "bf16", "both ways")
PARTS = {"arccos": RFA(R, "arccos"), "gated": RFA(R, gate=True), "favor": Favor(R), "elu": Elu()}


def build_core(route: str) -> torch.nn.Module:
    part = PARTS.get(route, RFA(R))
    choice = Choice(None, Global(), Soft(), part, route != "both ways")
    return part.build_core(Dims(H, D, D, D), choice, torch.Generator().manual_seed(0)).eval()


def make_call(route: str, inputs: list[Tensor], gate: Tensor) -> Callable[[], Tensor]:
    if route == "sdpa":
        return lambda: F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], is_causal=True)
    core = build_core(route)
    masking = Masking(gate=gate if route == "gated" else None)
    inputs = (
        [x.detach().bfloat16().requires_grad_(x.requires_grad) for x in inputs] if route == "bf16" else inputs
    )
    return lambda: core(*inputs, masking)


def time_call(route: str, call: Callable[[], Tensor], backward: bool) -> float:
    all_backends = backends.BACKENDS
    backends.BACKENDS = () if route == "torch" else all_backends
    begin = time.perf_counter()
    out = call()
    if backward:
        out.backward(torch.ones_like(out))
    seconds = time.perf_counter() - begin
    backends.BACKENDS = all_backends
    return seconds


def time_routes(routes: list[str], length: int, repeats: int, backward: bool) -> dict[str, float]:
    inputs = [torch.randn(1, H, length, D, requires_grad=backward) for _ in range(3)]
    gate = torch.randn(1, H, length) + 2
    calls = {route: make_call(route, inputs, gate) for route in routes}
    times: dict[str, list[float]] = {route: [] for route in routes}
    with torch.set_grad_enabled(backward):
        for _ in range(repeats + 1):
            for route in routes:
                times[route].append(time_call(route, calls[route], backward))
    return {route: 1e3 * statistics.median(seconds[1:]) for route, seconds in times.items()}


def compute_bound(length: int) -> float:
    """The least milliseconds of the causal Gaussian forward pass.

    Counts two projections, reading and updating the prefix sums, the pairs of a chunk of 32, and two pairs of
    sine and cosine for every feature.
    """
    pairs = 2 * R * 24 + D * 20
    adds, sines = measure_peak_rates_of_one_thread()
    return (
        1e3 * H * length * ((2 * D * R + 4 * R * D + pairs) / adds + 2 * R / sines) / torch.get_num_threads()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 4096, 16384])
    parser.add_argument("--routes", nargs="+", default=["sdpa", "torch", "native"], choices=ROUTES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.threads} threads, native engine: {native.describe_library()}, "
        f"heads {H} of {D}, {R} features"
    )
    print("length", *(f"{route:>10}" for route in options.routes), f"{'bound':>10}", sep="  ")
    for length in options.lengths:
        times = time_routes(options.routes, length, options.repeats, options.backward)
        cells = (f"{times[route]:10.2f}" for route in options.routes)
        print(
            f"{length:6d}",
            *cells,
            f"{compute_bound(length) if native.is_available() else 0:10.2f}",
            sep="  ",
            flush=True,
        )


if __name__ == "__main__":
    main()
