"""How long causal attention takes on a CUDA device: torch's softmax (flash) and the feature map by Triton.

    python benchmarks/linear_attention_gpu.py --lengths 1024 16384 131072 --backward

Batch 1, bfloat16.  Every number is the median of the repeats, in milliseconds, between two events on the
device, after a warm-up that compiles the kernels; `peak` is the most memory held at once, in MiB, inputs
included.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qkv.kernel import RFA, Elu, Favor
from qkv.kernel import triton as by_triton
from qkv.kernel.key_weights import compute_key_weights
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

LENGTHS = [1 << power for power in range(10, 18)]
ROUTES = ("flash", "gaussian", "gated", "arccos", "favor", "elu")


def part_of(route: str, features: int) -> RFA | Favor | Elu:
    parts = {"arccos": RFA(features, "arccos"), "gated": RFA(features, gate=True), "favor": Favor(features)}
    return Elu() if route == "elu" else parts.get(route, RFA(features))


def call_of(route: str, inputs: list[Tensor], gate: Tensor, features: int) -> Callable[[], Tensor]:
    q, k, v = inputs
    if route == "flash":
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    choice = Choice(None, Global(), Soft(), part_of(route, features), True)
    dims = Dims(q.shape[1], q.shape[3], k.shape[3], v.shape[3])
    core = choice.kernel.build_core(dims, choice, torch.Generator().manual_seed(0)).eval().to(q.device)

    def call() -> Tensor:
        masses = compute_key_weights(
            core.features.key_log_factor(k.float()), gate if route == "gated" else None, None
        )
        kind = core.features.describe_for_backends(core.features.choose_projections())
        return by_triton.attend(kind, (q, k, v), (masses, None), None, True, core.floor)[0]

    return call


def timed(call: Callable[[], Tensor], backward: bool) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    out = call()
    if backward:
        out.backward(torch.ones_like(out))
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measured(route: str, length: int, given: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds, and the peak of memory in MiB."""
    shape = (1, given.heads, length, given.width)
    like = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": given.backward}
    inputs = [torch.randn(shape, **like) for _ in range(3)]
    call = call_of(route, inputs, torch.randn(shape[:3], device="cuda") + 2, given.features)
    with torch.set_grad_enabled(given.backward), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for _ in range(3):
            timed(call, given.backward)
        torch.cuda.reset_peak_memory_stats()
        times = [timed(call, given.backward) for _ in range(given.repeats)]
    return statistics.median(times), torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    ask.add_argument("--routes", nargs="+", default=["flash", "gaussian"], choices=ROUTES)
    ask.add_argument("--heads", type=int, default=8)
    ask.add_argument("--width", type=int, default=64)
    ask.add_argument("--features", type=int, default=64)
    ask.add_argument("--repeats", type=int, default=20)
    ask.add_argument("--backward", action="store_true", help="time forward and backward together")
    given = ask.parse_args()
    if not (by_triton.available() and torch.cuda.is_available()):
        ask.error("this needs a CUDA device, and Triton: pip install triton")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {vars(given)}")
    print("  length", *(f"{route:>10} {'peak':>8}" for route in given.routes), sep="  ")
    for length in given.lengths:
        cells = (measured(route, length, given) for route in given.routes)
        print(f"{length:8d}", *(f"{ms:10.3f} {peak:8.0f}" for ms, peak in cells), sep="  ", flush=True)


if __name__ == "__main__":
    main()
