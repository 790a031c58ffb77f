"""Compares what `qkv cost` computes with real models and real steps, and keeps the result as JSON.

python docs/cost_checks.py checks.json [FAMILY ...]                     # all families, or only these
MALLOC_MMAP_THRESHOLD_=65536 python docs/cost_checks.py checks.json     # adds what a process takes then
python docs/make_costs.py --checks checks.json
"""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from qkv.bench.memory import measure_memory
from qkv.cost.estimate import estimate_cost
from qkv.cost.workload import Sizes, Workload, build_workload
from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.model.captioner_config import RecurrentCaptionerConfig, TransformerCaptionerConfig
from qkv.model.classifier import ClassifierConfig
from qkv.model.encoder import EncoderConfig
from qkv.model.gan import GANConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.model.language import LanguageModelConfig
from qkv.model.patches import PatchConfig
from qkv.model.seq2seq import RNNConfig
from qkv.model.transformer import TransformerConfig
from qkv.model.vision import CNNConfig, SelfAttention2dConfig
from qkv.model.vision_classifier import CNNClassifierConfig, PatchClassifierConfig
from qkv.scope import Window
from qkv.score import Additive, General
from qkv.select import Sparsemax
from qkv.spec import AttentionSpec

# glibc's malloc keeps freed blocks; with a fixed threshold it gives large ones back at once.
PROCESS = "process, blocks returned" if "MALLOC_MMAP_THRESHOLD_" in os.environ else "process"

SIZES = Sizes(batch=40, length=96, source_vocab=2000, target_vocab=2000, classes=10)
ENCODER_SPECS = (
    AttentionSpec(),
    AttentionSpec(scope=Window(8)),
    AttentionSpec(select=Sparsemax()),
    AttentionSpec(kernel=RFA(32)),
    AttentionSpec(score=Additive(hidden=16)),
)
SHORT = SIZES._replace(batch=256, length=20)
PICTURES = SIZES._replace(batch=128)


def list_families() -> Iterator[tuple[str, Any, Sizes]]:
    """Ten configs of every family of models, each with the sizes of its step."""
    for width in (128, 192):
        for kernel in (Softmax(), RFA(32), Elu(), Favor(32), RFA(16, gate=True)):
            yield from _list_decoders(width, kernel)
        for spec in ENCODER_SPECS:
            yield "masked", EncoderConfig(width=width, layers=2, attention=spec), SIZES
            config = ClassifierConfig(width=width, layers=2, attention=spec, pool="attention")
            yield "classifier", config, SIZES
        yield from _list_hierarchical(width)
        yield from _list_other_mixers(width)
    for width, score in product((96, 160), (Additive(), General(), None)):
        spec = None if score is None else AttentionSpec(score=score)
        yield "rnn", RNNConfig(attention=spec, embedding=width, hidden=width), SHORT
        if spec is not None:
            yield "rnn", RNNConfig(cell="lstm", attention=spec, embedding=width, hidden=width), SHORT
    yield from _list_pictures()


def _list_decoders(width: int, kernel: Any) -> Iterator[tuple[str, Any, Sizes]]:
    decoder = AttentionSpec(causal=True, kernel=kernel)
    cross = AttentionSpec(kernel=Elu() if isinstance(kernel, Elu) else Softmax())
    layers: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2}
    config = TransformerConfig(width=width, decoder=decoder, cross=cross, norm="post", **layers)
    yield "transformer", config, SIZES
    yield "language", LanguageModelConfig(width=width, layers=2, attention=decoder), SIZES


def _list_hierarchical(width: int) -> Iterator[tuple[str, Any, Sizes]]:
    for layers in (1, 2):
        yield "hierarchical", HierarchicalConfig(width=width, layers=layers, max_sentence_length=24), SIZES
    for spec in ENCODER_SPECS[:3]:
        config = HierarchicalConfig(
            encoder="attention", width=width, layers=2, attention=spec, max_sentence_length=24
        )
        yield "hierarchical", config, SIZES


def _list_other_mixers(width: int) -> Iterator[tuple[str, Any, Sizes]]:
    for layers in (1, 2):
        yield "language, recurrent", LanguageModelConfig(width=width, layers=layers, mixer="gru"), SHORT
        yield "language, recurrent", LanguageModelConfig(width=width, layers=layers, mixer="lstm"), SHORT
    plain: dict[str, Any] = {"width": width, "layers": 2, "feedforward": 0}
    yield "language, recurrent", LanguageModelConfig(**plain, mixer="gru"), SHORT
    for layers in (1, 2, 3, 4):
        config = LanguageModelConfig(width=width, layers=layers, mixer="convolution")
        yield "language, convolution", config, SIZES
    yield "language, convolution", LanguageModelConfig(**plain, mixer="convolution"), SIZES


def _list_pictures() -> Iterator[tuple[str, Any, Sizes]]:
    for width, blocks in ((16, 1), (16, 2), (32, 1), (32, 2), (48, 1)):
        yield "pictures", CNNClassifierConfig(widths=(width, width), blocks=blocks), PICTURES
    for width, patch in ((64, 4), (128, 4), (192, 4), (128, 8), (192, 8)):
        yield "pictures", PatchClassifierConfig(width=width, layers=2, patch=patch), PICTURES
    for width in (16, 24, 32, 40, 48):
        yield "masked pictures", CNNConfig(widths=(width, width), blocks=1), PICTURES
        yield "masked pictures", PatchConfig(width=4 * width, layers=2), PICTURES
        for kernel in (Softmax(), RFA(32)):
            attention = SelfAttention2dConfig(after=3, form="sagan", attention=AttentionSpec(kernel=kernel))
            widths = (2 * width, 2 * width, width, width)
            yield "adversarial", GANConfig(widths=widths, self_attention=attention), PICTURES
    encoder = CNNConfig(widths=(16, 32), blocks=1)
    for width in (64, 96, 128, 160, 192):
        recurrent = RecurrentCaptionerConfig(encoder=encoder, embedding=width, hidden=width)
        yield "captioner", recurrent, PICTURES._replace(length=16)
        yield (
            "captioner",
            TransformerCaptionerConfig(encoder=encoder, width=width),
            PICTURES._replace(length=16),
        )


def measure_peaks(workload: Workload) -> dict[str, int]:
    """Bytes of a training step with AdamW: what torch's allocator gave at most, and what the process took."""
    parameters = list(workload.model.parameters())
    optimizer = torch.optim.AdamW(parameters, fused=True)
    workload.objective.train()

    def step() -> None:
        for turn in workload.turns:
            workload.compute_loss(turn).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    step()  # makes the optimizer's state, and loads code
    allocated = measure_allocated(step)
    gc.collect()
    with suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = [*parameters, *workload.model.buffers()]
    state = [value for values in optimizer.state.values() for value in values.values()]
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in [*held, *state])
    given = [tensor for tensor in tree_leaves(tuple(workload.batch)) if isinstance(tensor, torch.Tensor)]
    batch = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in given}.values())
    return {"allocated": fixed + batch + allocated, PROCESS: fixed + measure_memory(step)}


def measure_allocated(call: Callable[[], Any]) -> int:
    """The most bytes that torch's allocator for CPUs had given at any time of a call, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events: Any = record.profiler
    changes = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in changes))


def check_config(family: str, config: Any, sizes: Sizes) -> dict[str, Any]:
    """What is computed for a config, and what is counted and measured."""
    from flop_counting import make_counter  # pyright: ignore[reportMissingImports]
    from qkv.cost.modes import KnownValues
    from qkv.cost.step_counts import measure_memory_of_step

    cost = estimate_cost(config, sizes)
    workload = build_workload(config, sizes)
    workload.objective.train()
    with KnownValues(workload.selected), make_counter() as counter:
        for turn in workload.turns:
            workload.compute_loss(turn).backward()
    torch.manual_seed(0)
    real = build_workload(config, sizes, "cpu")
    saved = measure_memory_of_step(real).saved
    count = sum(weight.numel() for weight in real.model.parameters())
    return {
        "family": family,
        "config": config.model_dump(mode="json", exclude_defaults=True),
        "parameters": [cost.parameters, count],
        "operations": [cost.training, counter.get_total_flops()],
        "saved": [cost.memory.saved, saved],
        "peak": cost.memory.peak,
        **measure_peaks(real),
    }


def main(path: Path, families: Sequence[str]) -> None:
    """Check all configs of some families, or of all, and write the results after each."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    written = json.loads(path.read_text()) if path.exists() else []
    numbers = {(check["family"], json.dumps(check["config"])): n for n, check in enumerate(written)}
    for family, config, sizes in list_families():
        if families and family not in families:
            continue
        check = check_config(family, config, sizes)
        number = numbers.get((family, json.dumps(check["config"])))
        if number is None:
            written.append(check)
        else:
            written[number] = {**written[number], PROCESS: check[PROCESS]}
        print(json.dumps(check), flush=True)
        path.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
