"""Times causal attention on a CUDA device: torch's softmax (flash) and feature maps on Triton kernels.

    python benchmarks/linear_attention_gpu.py --lengths 1024 16384 131072 --backward

Batch 1, bfloat16. Every number is the median of the repeats, in milliseconds between two events on the
device, after a warm-up that compiles the kernels. `peak` is the peak memory in MiB, inputs included.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qkv.kernel import RFA, Elu, Favor
from qkv.kernel import triton as triton_backend
from qkv.kernel.key_weights import compute_key_weights
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims

LENGTHS = [1 << power for power in range(10, 18)]
ROUTES = ("flash", "gaussian", "gated", "arccos", "favor", "elu")


def make_part(route: str, features: int) -> RFA | Favor | Elu:
    parts = {"arccos": RFA(features, "arccos"), "gated": RFA(features, gate=True), "favor": Favor(features)}
    return Elu() if route == "elu" else parts.get(route, RFA(features))


def make_call(route: str, inputs: list[Tensor], gate: Tensor, features: int) -> Callable[[], Tensor]:
    q, k, v = inputs
    if route == "flash":
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    choice = Choice(None, Global(), Soft(), make_part(route, features), True)
    dims = Dims(q.shape[1], q.shape[3], k.shape[3], v.shape[3])
    core = choice.kernel.build_core(dims, choice, torch.Generator().manual_seed(0)).eval().to(q.device)

    def call() -> Tensor:
        key_weights = compute_key_weights(
            core.features.compute_key_log_factor_outside_backend(k.float()),
            gate if route == "gated" else None,
            None,
        )
        kind = core.features.describe_for_backends(core.features.choose_projections())
        return triton_backend.compute_linear_attention(
            kind, (q, k, v), key_weights, None, None, True, core.floor
        )[0]

    return call


def time_call(call: Callable[[], Tensor], backward: bool) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    out = call()
    if backward:
        out.backward(torch.ones_like(out))
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(route: str, length: int, options: argparse.Namespace) -> tuple[float, float]:
    """Median milliseconds, and the peak memory in MiB."""
    shape = (1, options.heads, length, options.width)
    tensor_options: dict[str, Any] = {
        "device": "cuda",
        "dtype": torch.bfloat16,
        "requires_grad": options.backward,
    }
    inputs = [torch.randn(shape, **tensor_options) for _ in range(3)]
    call = make_call(route, inputs, torch.randn(shape[:3], device="cuda") + 2, options.features)
    with torch.set_grad_enabled(options.backward), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for _ in range(3):
            time_call(call, options.backward)
        torch.cuda.reset_peak_memory_stats()
        times = [time_call(call, options.backward) for _ in range(options.repeats)]
    return statistics.median(times), torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--routes", nargs="+", default=["flash", "gaussian"], choices=ROUTES)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    options = parser.parse_args()
    if not (triton_backend.is_available() and torch.cuda.is_available()):
        parser.error("this benchmark needs a CUDA device and Triton: pip install triton")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {vars(options)}")
    print("  length", *(f"{route:>10} {'peak':>8}" for route in options.routes), sep="  ")
    for length in options.lengths:
        cells = (measure(route, length, options) for route in options.routes)
        print(f"{length:8d}", *(f"{ms:10.3f} {peak:8.0f}" for ms, peak in cells), sep="  ", flush=True)


if __name__ == "__main__":
    main()
