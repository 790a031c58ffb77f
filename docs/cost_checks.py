"""Compares what `qkv cost` computes with real models and real steps, and keeps the result as JSON.

python docs/cost_checks.py docs/costs.json
"""

import ctypes
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch

from qkv.bench.memory import measure_memory
from qkv.cost.estimate import estimate_cost
from qkv.cost.workload import Sizes, Workload, build_workload
from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.model.captioner_config import RecurrentCaptionerConfig, TransformerCaptionerConfig
from qkv.model.classifier import ClassifierConfig
from qkv.model.encoder import EncoderConfig
from qkv.model.language import LanguageModelConfig
from qkv.model.seq2seq import RNNConfig
from qkv.model.transformer import TransformerConfig
from qkv.model.vision import CNNConfig
from qkv.model.vision_classifier import CNNClassifierConfig, PatchClassifierConfig
from qkv.scope import Window
from qkv.score import Additive, General
from qkv.select import Sparsemax
from qkv.spec import AttentionSpec

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


def _list_pictures() -> Iterator[tuple[str, Any, Sizes]]:
    for width, blocks in ((16, 1), (16, 2), (32, 1), (32, 2), (48, 1)):
        yield "pictures", CNNClassifierConfig(widths=(width, width), blocks=blocks), PICTURES
    for width, patch in ((64, 4), (128, 4), (192, 4), (128, 8), (192, 8)):
        yield "pictures", PatchClassifierConfig(width=width, layers=2, patch=patch), PICTURES
    encoder = CNNConfig(widths=(16, 32), blocks=1)
    for width in (64, 96, 128, 160, 192):
        recurrent = RecurrentCaptionerConfig(encoder=encoder, embedding=width, hidden=width)
        yield "captioner", recurrent, PICTURES._replace(length=16)
        yield (
            "captioner",
            TransformerCaptionerConfig(encoder=encoder, width=width),
            PICTURES._replace(length=16),
        )


def measure_peak(workload: Workload) -> int:
    """Bytes of a training step with AdamW: weights, its state, and the growth of the process."""
    parameters = list(workload.model.parameters())
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        workload.objective.train()(workload.batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # makes the optimizer's state, and loads code
    gc.collect()
    with suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = [*parameters, *workload.model.buffers()]
    state = [value for values in optimizer.state.values() for value in values.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*held, *state]) + measure_memory(step)


def check_config(family: str, config: Any, sizes: Sizes) -> dict[str, Any]:
    """What is computed for a config, and what is counted and measured."""
    from flop_counting import make_counter  # pyright: ignore[reportMissingImports]
    from qkv.cost.modes import KnownValues
    from qkv.cost.step_trace import measure_memory_of_step

    cost = estimate_cost(config, sizes)
    workload = build_workload(config, sizes)
    with KnownValues(workload.selected), make_counter() as counter:
        workload.objective.train()(workload.batch).total.backward()
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
        "peak": [cost.memory.peak, measure_peak(real)],
    }


def main(path: Path) -> None:
    """Check all configs, and write the results after each."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    checks = []
    for family, config, sizes in list_families():
        checks.append(check_config(family, config, sizes))
        print(json.dumps(checks[-1]), flush=True)
        path.write_text(json.dumps(checks, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
