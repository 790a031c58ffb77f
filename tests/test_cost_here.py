"""What `qkv cost` measures on the machine it runs on, and memory under autocast."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qkv.cost.measured_crossover
import qkv.cost.probe
import tiny
from qkv.bench import Crossing
from qkv.bench.results import Cell
from qkv.cost.estimate import estimate_cost
from qkv.cost.measured_crossover import MeasuredCrossover, measure_crossovers
from qkv.cost.modes import FusedAttentionOfCPU, KnownValues
from qkv.cost.precision import Autocast
from qkv.cost.probe import probe_training
from qkv.cost.report import describe_measured_crossover
from qkv.cost.step_counts import SavedTensors
from qkv.cost.workload import Sizes, build_workload
from qkv.kernel import RFA, Elu, Softmax
from qkv.model.classifier import ClassifierConfig
from qkv.model.encoder import EncoderConfig
from qkv.model.language import LanguageModelConfig
from qkv.model.transformer import TransformerConfig
from qkv.model.vision_classifier import CNNClassifierConfig
from qkv.score import Location
from qkv.select import Sparsemax
from qkv.spec import AttentionSpec

SIZES = Sizes(batch=3, length=10, source_vocab=40, target_vocab=40)


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (TransformerConfig(width=16, encoder_layers=1, decoder_layers=1), 0),
        (LanguageModelConfig(width=16, layers=2, attention=AttentionSpec(causal=True, kernel=RFA(8))), 0),
        (LanguageModelConfig(width=16, layers=1, attention=AttentionSpec(causal=True, kernel=Elu())), 0),
        (EncoderConfig(width=16, layers=1, attention=AttentionSpec(select=Sparsemax())), 0),
        (ClassifierConfig(width=16, layers=1, pool="attention"), 0),
        (CNNClassifierConfig(widths=(8, 8), blocks=1), 0.01),
    ],
)
def test_stored_bytes_under_autocast_are_those_of_a_real_step(config: Any, tolerance: float) -> None:
    computed = estimate_cost(config, SIZES._replace(precision="bf16")).memory
    workload = build_workload(config, SIZES, "cpu")
    saved = SavedTensors([*workload.model.parameters(), *workload.model.buffers()])
    with ExitStack() as modes:
        for mode in (FusedAttentionOfCPU(), KnownValues(workload.selected), saved.watch()):
            modes.enter_context(mode)
        modes.enter_context(torch.autocast("cpu", torch.bfloat16))
        workload.objective.train()(workload.batch)
    assert computed.saved == pytest.approx(saved.bytes, rel=tolerance)
    single = estimate_cost(config, SIZES).memory
    assert computed.saved < 0.9 * single.saved
    assert computed.weights == single.weights


def test_a_cast_belongs_to_its_weight_although_ids_of_freed_weights_recur() -> None:
    cast = Autocast(torch.bfloat16)
    for size in range(1, 50):
        weight = nn.Parameter(torch.empty(size, 2, device="meta"))
        with torch.no_grad(), cast:
            product = nn.functional.linear(torch.empty(3, 2, device="meta"), weight)
        assert product.shape == (3, size)
        del weight


@pytest.mark.parametrize("config", [LanguageModelConfig(width=8, layers=1), CNNClassifierConfig(widths=(8,))])
def test_a_probe_trains_and_stops_in_time(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = []
    probe = probe_training(config, SIZES._replace(precision="bf16"), "cpu", 0.0, elapsed.append)
    assert probe.steps == len(elapsed) == 1
    assert 0 < probe.seconds <= elapsed[0] * 1.01
    assert probe.peak >= 0
    monkeypatch.setattr(qkv.cost.probe, "MOST_STEPS", 3)
    assert probe_training(config, SIZES, "cpu", 1e9).steps == 3


def _fake_times(crossing: float) -> Any:
    """`measure` of a machine on which softmax takes N² / crossing and every other attention N."""

    def measure(contenders: Any, lengths: list[int], **_: Any) -> Iterator[Cell]:
        for contender in contenders:
            is_softmax = contender.spec.kernel == Softmax()
            seconds = lengths[0] ** 2 / crossing if is_softmax else float(lengths[0])
            yield Cell("forward", contender.label, lengths[0], seconds)

    return measure


@pytest.mark.parametrize(
    ("at", "found", "longest", "is_faster"),
    [(300, 300, 2048, True), (10, None, 256, True), (10**6, None, 16384, False)],
)
def test_lengths_double_until_attention_is_faster_three_times(
    at: float, found: int | None, longest: int, is_faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qkv.cost.measured_crossover, "measure", _fake_times(at))
    config = LanguageModelConfig(width=16, attention=AttentionSpec(causal=True, kernel=RFA(8)))
    (measured,) = measure_crossovers(config, lambda step: None)
    assert measured.name == "model.attention"
    assert (measured.longest, measured.is_faster) == (longest, is_faster)
    assert found == (None if measured.crossing is None else measured.crossing.rounded)
    assert not list(measure_crossovers(LanguageModelConfig(width=16), lambda step: None))


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        ((Crossing(298.0, True), True, 2048), "faster from about 300 tokens on"),
        ((Crossing(298.0, False), False, 2048), "faster only below about 300 tokens"),
        ((None, True, 256), "faster at every length up to 256"),
        ((None, False, 16384), "slower at every length up to 16,384"),
        ((None, False, 0), "not measured, because it reads so few tokens"),
    ],
)
def test_every_outcome_of_a_measurement_is_told(measured: Any, outcome: str) -> None:
    line = describe_measured_crossover(MeasuredCrossover("model.decoder", *measured))
    assert line.endswith(f"a forward pass is {outcome}")


def test_attention_that_reads_few_keys_is_not_measured() -> None:
    spec = AttentionSpec(causal=True, score=Location(length=16))
    [measured] = measure_crossovers(LanguageModelConfig(width=16, attention=spec), lambda step: None)
    assert (measured.crossing, measured.longest) == (None, 0)


def test_the_command_prints_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.cli.commands.cost.PROBE_SECONDS", 0.0)
    monkeypatch.setattr(qkv.cost.measured_crossover, "measure", _fake_times(300))
    changes = "model={width: 16, layers: 1, max_length: 1024, attention: {kernel: rfa}}"
    command = ("cost", "recall-rfa", "--set", changes, "--batch", 2, "--length", 16)
    options = ("--measure", "--probe", "--precision", "bf16", "--json", tmp_path / "cost.json")
    assert tiny.call(*command, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("memory of a training step under autocast to bf16: ") for line in lines)
    assert any(line.endswith("a forward pass is faster from about 300 tokens on") for line in lines)
    assert any(line.startswith("measured on this cpu with ") for line in lines)
    assert any("updates take 0:0" in line for line in lines)
    result = json.loads((tmp_path / "cost.json").read_text())
    assert result["measured"][0]["crossing"]["faster_above"]
    assert result["probe"]["steps"] == 1
    assert result["probe"]["precision"] == "bf16"
    assert result["costs"][0]["sizes"]["precision"] == "bf16"
