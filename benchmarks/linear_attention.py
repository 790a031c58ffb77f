"""How long causal attention takes: torch's softmax, the feature map by torch, and by the native engine.

    python benchmarks/linear_attention.py --lengths 256 1024 16384 --backward

Every number is the median of the repeats, in milliseconds; all routes of a length run in turn, so that ratios
hold even where the machine is busy.  `bound` is what the multiply-adds and sines of the native route would
take on all threads at the speed measured in the same run.
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
from qkv.kernel.native.library import measure_peak_rates
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

H, D, R = 8, 64, 64
ROUTES = ("sdpa", "torch", "native", "arccos", "gated", "favor", "elu", "bf16", "both ways")
PARTS = {"arccos": RFA(R, "arccos"), "gated": RFA(R, gate=True), "favor": Favor(R), "elu": Elu()}


def core_of(route: str) -> torch.nn.Module:
    part = PARTS.get(route, RFA(R))
    choice = Choice(None, Global(), Soft(), part, route != "both ways")
    return part.build_core(Dims(H, D, D, D), choice, torch.Generator().manual_seed(0)).eval()


def call_of(route: str, inputs: list[Tensor], gate: Tensor) -> Callable[[], Tensor]:
    if route == "sdpa":
        return lambda: F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], is_causal=True)
    core = core_of(route)
    given = Masking(gate=gate if route == "gated" else None)
    inputs = (
        [x.detach().bfloat16().requires_grad_(x.requires_grad) for x in inputs] if route == "bf16" else inputs
    )
    return lambda: core(*inputs, given)


def timed(route: str, call: Callable[[], Tensor], backward: bool) -> float:
    engines = backends.BACKENDS
    backends.BACKENDS = () if route == "torch" else engines
    begin = time.perf_counter()
    out = call()
    if backward:
        out.backward(torch.ones_like(out))
    took = time.perf_counter() - begin
    backends.BACKENDS = engines
    return took


def medians(routes: list[str], length: int, repeats: int, backward: bool) -> dict[str, float]:
    inputs = [torch.randn(1, H, length, D, requires_grad=backward) for _ in range(3)]
    gate = torch.randn(1, H, length) + 2
    calls = {route: call_of(route, inputs, gate) for route in routes}
    times: dict[str, list[float]] = {route: [] for route in routes}
    with torch.set_grad_enabled(backward):
        for _ in range(repeats + 1):
            for route in routes:
                times[route].append(timed(route, calls[route], backward))
    return {route: 1e3 * statistics.median(took[1:]) for route, took in times.items()}


def bound(length: int) -> float:
    """Milliseconds of the causal Gaussian forward pass: two projections, the sums read and added to, the
    pairs of a chunk of 32; and two sines and cosines of every feature.
    """
    pairs = 2 * R * 24 + D * 20
    adds, sines = measure_peak_rates()
    return (
        1e3 * H * length * ((2 * D * R + 4 * R * D + pairs) / adds + 2 * R / sines) / torch.get_num_threads()
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 4096, 16384])
    ask.add_argument("--routes", nargs="+", default=["sdpa", "torch", "native"], choices=ROUTES)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--threads", type=int, default=torch.get_num_threads())
    ask.add_argument("--backward", action="store_true", help="time forward and backward together")
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.threads} threads, native engine: {native.about()}, heads {H} of {D}, {R} features")
    print("length", *(f"{route:>10}" for route in given.routes), f"{'bound':>10}", sep="  ")
    for length in given.lengths:
        found = medians(given.routes, length, given.repeats, given.backward)
        cells = (f"{found[route]:10.2f}" for route in given.routes)
        print(
            f"{length:6d}",
            *cells,
            f"{bound(length) if native.available() else 0:10.2f}",
            sep="  ",
            flush=True,
        )


if __name__ == "__main__":
    main()
