"""Training steps on this machine, on made-up batches, for an estimate of the time that a training takes."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from qkv.bench import measure_memory
from qkv.cost.precision import HALF_TYPES
from qkv.cost.workload import Sizes, Workload, build_workload

PROBE_SECONDS = 60.0
MOST_STEPS = 1000
WARM_UP_STEPS = 2  # the first steps load code and make the optimizer's state


class Probe(NamedTuple):
    """What training steps took.

    Args:
        device: where they ran.
        threads: of the CPU.
        steps: how many were timed.
        seconds: of a step, the mean.
        peak: bytes beyond the weights; of the process on a CPU, of torch's allocator on a GPU.
    """

    device: str
    threads: int
    steps: int
    seconds: float
    peak: int


def probe_training(
    config: Any,
    sizes: Sizes,
    device: str = "cpu",
    seconds: float = PROBE_SECONDS,
    report: Callable[[float], None] = lambda elapsed: None,
) -> Probe:
    """Run training steps with AdamW on random tokens or pictures, and time them.

    Args:
        config: the config of a model: any section `model` of a recipe.
        sizes: the sizes of a step, and its precision.
        device: "cpu", "cuda" or "mps".
        seconds: how long; two steps run before.
        report: is called after every step with the seconds until then.

    Returns:
        The times and the memory.

    Raises:
        BadRecipe: the length is more than the model can read.
    """
    workload = build_workload(config, sizes, device)
    workload = workload._replace(batch=_draw_tokens(workload.batch, sizes))
    step = _make_step(workload, HALF_TYPES.get(sizes.precision), device)
    times: list[float] = []

    def run() -> None:
        for _ in range(WARM_UP_STEPS):
            step()
        started = time.perf_counter()
        while not times or (sum(times) < seconds and len(times) < MOST_STEPS):
            before = time.perf_counter()
            step()
            times.append(time.perf_counter() - before)
            report(time.perf_counter() - started)

    peak = measure_memory(run, device)
    return Probe(device, torch.get_num_threads(), len(times), sum(times) / len(times), peak)


def _make_step(workload: Workload, dtype: torch.dtype | None, device: str) -> Callable[[], None]:
    workload.objective.train()
    parameters = [weight for weight in workload.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        for turn in workload.turns:
            with nullcontext() if dtype is None else torch.autocast(device, dtype):
                loss = workload.compute_loss(turn)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _draw_tokens(batch: Any, sizes: Sizes) -> Any:
    """The batch with tokens from Zipf's law, whose logarithms are uniform; frequent tokens have small ids."""
    generator = torch.Generator().manual_seed(0)
    vocab = min(sizes.source_vocab, sizes.target_vocab)

    def draw(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.dim() < 2:
            return x
        return (vocab ** torch.rand(x.shape, generator=generator)).long().to(x.device)

    return tree_map(draw, batch)
