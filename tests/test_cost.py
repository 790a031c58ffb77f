"""Costs that are computed before training, against real models, torch's counter and real steps."""

import re
from typing import Any

import pytest
import torch

import flop_counting
import qkv.cost.estimate
from qkv.cost.components import RECOMPUTED
from qkv.cost.estimate import Cost, estimate_cost
from qkv.cost.modes import KnownValues
from qkv.cost.parameters import count_parameters
from qkv.cost.step_counts import measure_memory_of_step
from qkv.cost.workload import Sizes, build_workload
from qkv.errors import BadRecipe
from qkv.kernel import RFA, Elu, Favor
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
from qkv.select import Hard, Sparsemax
from qkv.spec import AttentionSpec

SIZES = Sizes(batch=2, length=6, source_vocab=30, target_vocab=40, classes=3, picture=16, smoothing=0.1)
TINY_CNN = CNNConfig(widths=(8, 8), blocks=1, groups=4)
CONFIGS: dict[str, Any] = {
    "transformer": TransformerConfig(
        encoder_layers=1,
        decoder_layers=1,
        width=16,
        heads=2,
        feedforward=24,
        encoder=AttentionSpec(score=Additive()),
    ),
    "transformer linear": TransformerConfig(
        encoder_layers=1,
        decoder_layers=2,
        width=16,
        feedforward=24,
        norm="post",
        embeddings="target",
        positions="learned",
        decoder=AttentionSpec(causal=True, kernel=RFA(8, gate=True)),
        cross=AttentionSpec(kernel=Elu()),
    ),
    "transformer mixed": TransformerConfig(
        encoder_layers=1,
        decoder_layers=2,
        width=16,
        feedforward=24,
        decoder_by_layer={1: AttentionSpec(causal=True, kernel=Elu())},
        cross_by_layer={0: AttentionSpec(scope=Window(3))},
    ),
    "rnn": RNNConfig(embedding=8, hidden=12),
    "rnn luong": RNNConfig(
        embedding=12,
        hidden=12,
        decoder="luong",
        tie=True,
        attention=AttentionSpec(score=General(), select=Hard()),
    ),
    "rnn plain": RNNConfig(embedding=8, hidden=12, attention=None, bidirectional=False),
    "language": LanguageModelConfig(layers=2, width=16, feedforward=24, activation="swiglu", norm="rms"),
    "language favor": LanguageModelConfig(
        layers=2,
        width=16,
        feedforward=24,
        convolution_layers=1,
        attention=AttentionSpec(causal=True, kernel=Favor(8)),
    ),
    "language mixed": LanguageModelConfig(
        layers=4,
        width=16,
        feedforward=24,
        attention=AttentionSpec(causal=True, kernel=Elu()),
        attention_by_layer={2: AttentionSpec(causal=True, scope=Window(3))},
    ),
    "language gru": LanguageModelConfig(layers=1, width=8, feedforward=0, mixer="gru", tied=False),
    "masked": EncoderConfig(layers=1, width=16, feedforward=24, attention=AttentionSpec(select=Sparsemax())),
    "classifier": ClassifierConfig(layers=1, width=16, feedforward=24, pool="attention"),
    "hierarchical": HierarchicalConfig(width=16, max_sentence_length=4),
    "cnn": CNNClassifierConfig(widths=(8, 8), blocks=1, groups=4, pool="attention"),
    "patches": PatchClassifierConfig(layers=1, width=16, feedforward=24, pool="first"),
    "hidden cells, cnn": TINY_CNN,
    "hidden cells, patches": PatchConfig(layers=1, width=16, feedforward=24),
    "gan": GANConfig(
        noise=8, widths=(16, 8, 8), groups=4, self_attention=SelfAttention2dConfig(after=2, form="sagan")
    ),
    "language lstm": LanguageModelConfig(layers=1, width=16, feedforward=24, mixer="lstm"),
    "language conv": LanguageModelConfig(layers=2, width=16, feedforward=24, mixer="convolution"),
    "caption rnn": RecurrentCaptionerConfig(encoder=TINY_CNN, embedding=8, hidden=12, cell="gru"),
    "caption transformer": TransformerCaptionerConfig(encoder=TINY_CNN, layers=1, width=16, feedforward=24),
}


QUICK = ("transformer linear", "language", "masked", "hierarchical", "patches")
PARAMETERS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS]


@pytest.fixture(scope="module", params=PARAMETERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def cost(name: str) -> Cost:
    return estimate_cost(CONFIGS[name], SIZES)


def evaluate(formula: str) -> int:
    expression = formula.replace("·", "*").replace("×", "*").replace("²", "**2")
    assert re.fullmatch(r"[\d ()+*]+", expression)
    return eval(expression)


def test_the_formulas_add_up_to_the_parameters_of_the_model(name: str, cost: Cost) -> None:
    model = build_workload(CONFIGS[name], SIZES).model
    assert cost.parameters == sum(weight.numel() for weight in model.parameters())
    for component in cost.components:
        assert component.parameters == (evaluate(component.formula) if component.formula else 0)


def test_operations_equal_those_of_the_counter_of_torch(name: str, cost: Cost) -> None:
    workload = build_workload(CONFIGS[name], SIZES)
    workload.objective.eval()
    with torch.no_grad(), KnownValues(workload.selected), flop_counting.make_counter() as forward:
        for turn in workload.turns:
            workload.compute_loss(turn)
    assert cost.forward == forward.get_total_flops()
    workload.objective.train()
    with KnownValues(workload.selected), flop_counting.make_counter() as training:
        for turn in workload.turns:
            workload.compute_loss(turn).backward()
    assert cost.training == training.get_total_flops()


def test_a_real_step_stores_the_same_bytes(name: str, cost: Cost) -> None:
    torch.manual_seed(0)
    real = measure_memory_of_step(build_workload(CONFIGS[name], SIZES, "cpu"))
    if "lstm" in name:  # oneDNN stores a workspace of its own, and asks for memory that it hardly touches
        assert cost.memory._replace(saved=0, peak=0) == real._replace(saved=0, peak=0)
        assert cost.memory.saved < real.saved
        return
    assert cost.memory._replace(peak=0) == real._replace(peak=0)
    assert cost.memory.peak == pytest.approx(real.peak, rel=0.05)


def test_the_components_of_a_transformer_have_the_known_formulas() -> None:
    config = TransformerConfig(encoder_layers=6, decoder_layers=6, width=512, feedforward=2048, norm="post")
    counts = count_parameters(build_workload(config, SIZES).model)
    assert counts["encoder: feed-forward"].formula == "6 × (2·512·2048 + 512 + 2048)"
    assert counts["decoder: cross-attention projections"].formula == "6 × 4·(512² + 512)"
    assert counts["decoder: normalisation"].formula == "18 × 2·512"
    layers = [count.count for name, count in counts.items() if ":" in name]
    assert sum(layers) == 44_138_496
    assert counts["output layer"].is_tied
    assert counts["output layer"].count == 0


def test_gradients_of_every_component_take_two_products_for_each_of_the_forward_pass() -> None:
    cost = estimate_cost(CONFIGS["language"], SIZES)
    for component in cost.components:
        assert component.training == 3 * component.forward, component.name


def test_what_the_backward_pass_computes_again_is_a_component() -> None:
    config = LanguageModelConfig(
        layers=1, width=16, max_length=600, feedforward=24, attention=AttentionSpec(causal=True, kernel=Elu())
    )
    cost = estimate_cost(config, SIZES._replace(length=600))
    last = cost.components[-1]
    attention = next(each for each in cost.components if each.name == "layers: attention")
    assert last.name == RECOMPUTED
    # the backward pass stops as soon as it has what it needs
    assert 0.95 * attention.forward < last.training <= attention.forward
    assert 2.5 * attention.forward < attention.training <= 3 * attention.forward


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (EncoderConfig(layers=6, width=16, feedforward=24), SIZES),
        pytest.param(
            TransformerConfig(encoder_layers=6, decoder_layers=7, width=16, feedforward=24),
            SIZES,
            marks=pytest.mark.slow,
        ),
        pytest.param(RNNConfig(embedding=8, hidden=12), SIZES._replace(length=36), marks=pytest.mark.slow),
    ],
)
def test_deep_stacks_and_long_recurrences_follow_from_smaller_ones(
    config: Any, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = estimate_cost(config, sizes)
    monkeypatch.setattr(qkv.cost.estimate, "TRACED_LAYERS", 99)
    monkeypatch.setattr(qkv.cost.estimate, "TRACED_STEPS", (1, 2, 99))
    complete = estimate_cost(config, sizes)
    assert short.components == complete.components
    assert short.memory._replace(peak=0) == complete.memory._replace(peak=0)
    assert short.memory.peak == pytest.approx(complete.memory.peak, rel=0.02)


@pytest.mark.slow
def test_a_huge_model_costs_no_memory() -> None:
    config = LanguageModelConfig(layers=96, width=12288, heads=96, feedforward=49152, max_length=2048)
    cost = estimate_cost(config, Sizes(batch=1, length=2048, source_vocab=50257))
    assert cost.parameters == 174_604_259_328
    assert cost.memory.weights == 4 * cost.parameters
    assert cost.decode is not None
    assert cost.decode.per_token == 2 * 96 * 12288 * 4


def test_the_decode_state_grows_only_where_keys_are_kept() -> None:
    growing, fixed = (
        estimate_cost(LanguageModelConfig(layers=2, width=16, attention=spec), SIZES).decode
        for spec in (AttentionSpec(causal=True), AttentionSpec(causal=True, kernel=Elu()))
    )
    assert growing is not None
    assert fixed is not None
    assert (growing.at_length, growing.per_token) == (2 * 2 * 16 * 4 * SIZES.length, 2 * 2 * 16 * 4)
    assert fixed.per_token == 0
    assert fixed.at_length == fixed.start > 0
    assert estimate_cost(CONFIGS["classifier"], SIZES).decode is None


def test_the_decode_state_of_a_window_holds_the_keys_that_it_reaches() -> None:
    spec = AttentionSpec(causal=True, scope=Window(4))
    state = estimate_cost(LanguageModelConfig(layers=2, width=16, attention=spec), SIZES).decode
    assert state is not None
    reached = 5
    assert (state.at_length, state.per_token) == (2 * 2 * 16 * 4 * reached, 0)


def test_a_length_that_the_model_cannot_read_is_refused() -> None:
    config = LanguageModelConfig(max_length=16)
    with pytest.raises(BadRecipe, match=r"32 tokens is more than model.max_length=16 holds: pass a shorter"):
        estimate_cost(config, SIZES._replace(length=32))
