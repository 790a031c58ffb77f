"""Language models: causal, exact in segments of any size, and equal to loops over positions."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from qkv.errors import QKVError
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.model.mixers import ConvolutionMixer, RecurrentMixer
from qkv.model.positions import Sinusoids, sinusoids
from qkv.state import detach, select_rows

V, N = 30, 19
MODELS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "rfa": {"attention": {"kernel": {"name": "rfa", "features": 16}}},
    "rfa with gate": {"attention": {"kernel": {"name": "rfa", "features": 16, "gate": True}}},
    "favor": {"attention": {"kernel": {"name": "favor", "features": 16}}},
    "elu": {"attention": {"kernel": "elu"}},
    "entmax": {"attention": {"select": "entmax"}},
    "window": {"attention": {"scope": {"name": "window", "half_width": 3}}},
    "additive": {"attention": {"score": "additive"}},
    "convolution, then softmax": {"convolution_layers": 1, "positions": "none"},
    "convolution, then rfa": {
        "convolution_layers": 1,
        "attention": {"kernel": {"name": "rfa", "features": 16}},
    },
    "a window, then rfa": {
        "attention": {"kernel": {"name": "rfa", "features": 16}},
        "attention_by_layer": {0: {"scope": {"name": "window", "half_width": 3}}},
    },
    "gru": {"mixer": "gru"},
    "lstm": {"mixer": "lstm", "feedforward": 0},
    "separable convolution": {"mixer": "convolution", "activation": "swiglu", "norm": "rms"},
    "clusters": {"mixer": "gru", "clusters": (4, 11)},
    "plain convolution": {"mixer": "convolution", "separable": False, "dilation": 1, "activation": "relu"},
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    config = {"layers": 2, "width": 16, "heads": 2, "feedforward": 24, "max_length": 32, **MODELS[name]}
    return LanguageModel(LanguageModelConfig(**{**config, **options}), V).double().eval()


def tokens(rows: int = 2, length: int = N) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(1))


def test_single_layers_have_an_attention_of_their_own() -> None:
    layers = build("a window, then rfa", layers=3).attention_layers()
    assert [layer.spec.kernel.name for layer in layers.values()] == ["softmax", "rfa", "rfa"]
    assert [layer.spec.scope.name for layer in layers.values()] == ["window", "global", "global"]
    assert {layer.spec.heads for layer in layers.values()} == {2}
    assert LanguageModelConfig(**MODELS["a window, then rfa"]).has_bounded_state
    growing = {"attention": {"kernel": "elu"}, "attention_by_layer": {1: {}}}
    assert not LanguageModelConfig(**growing).has_bounded_state
    assert LanguageModelConfig.model_validate_json(
        LanguageModelConfig(**growing).model_dump_json()
    ) == LanguageModelConfig(**growing)
    location = {"score": {"name": "location", "length": 9}}
    limit = LanguageModelConfig.model_validate({"attention_by_layer": {1: location}}).length_limits.target
    assert limit == (9, "model.attention_by_layer.1.score.length")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2, "attention_by_layer": {2: {}}}, r"has the layer 2, .* with attention are 0 to 1"),
        ({"layers": 2, "convolution_layers": 1, "attention_by_layer": {0: {}}}, r"layer 0, .* are 1 to 1"),
        ({"mixer": "gru", "attention_by_layer": {0: {}}}, r"has the layer 0, .* with attention are none"),
        ({"attention_by_layer": {0: {"causal": False}}}, r"attention_by_layer.0: causal must be True"),
        ({"attention_by_layer": {0: {"heads": 3}}}, "heads=3"),
    ],
)
def test_attentions_of_layers_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, QKVError), match=message):
        LanguageModelConfig(**options)


@every_model
def test_the_future_changes_nothing(name: str) -> None:
    model, ids = build(name), tokens()
    hidden = model(ids)
    for end in (1, 7, N - 1):
        changed = torch.cat([ids[:, :end], (ids[:, end:] + 1) % V], 1)
        torch.testing.assert_close(model(changed)[:, :end], hidden[:, :end], rtol=0, atol=1e-12)
        assert (model(changed)[:, end:] - hidden[:, end:]).abs().max() > 1e-6


@every_model
@pytest.mark.parametrize("sizes", [[1] * N, [5, 1, 13], [18, 1]])
def test_segments_equal_the_whole(name: str, sizes: list[int]) -> None:
    model, ids = build(name), tokens()
    state, parts = model.start(batch=2), []
    for part in ids.split(sizes, 1):
        hidden, state = model.extend(part, state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), rtol=0, atol=1e-10)


@every_model
def test_step_scores_the_next_token(name: str) -> None:
    model, ids = build(name), tokens()
    scores = model.output(model(ids))
    state = model.start(batch=2)
    for t in range(N):
        step = model.step(ids[:, t], state)
        state = step.state
        torch.testing.assert_close(step.logits, scores[:, t], rtol=1e-5, atol=1e-6)


@every_model
def test_rows_of_a_state_can_be_chosen(name: str) -> None:
    model, ids = build(name), tokens(3)
    _, state = model.extend(ids, model.start(batch=3))
    kept = torch.tensor([2, 0])
    step = model.step(torch.tensor([4, 5]), select_rows(state, kept))
    whole = model(torch.cat([ids[kept], torch.tensor([[4], [5]])], 1))[:, -1]
    torch.testing.assert_close(step.logits, model.output(whole), rtol=1e-5, atol=1e-6)


@every_model
def test_no_gradient_runs_back_through_a_detached_state(name: str) -> None:
    model, ids = build(name).train(), tokens()
    _, state = model.extend(ids[:, :9], model.start(batch=2))
    hidden, _ = model.extend(ids[:, 9:], detach(state))
    hidden.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    _, state = model.extend(ids[:, :9], model.start(batch=2))
    assert not any(part.requires_grad for part in tensors(detach(state)))


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [part for each in state for part in tensors(each)] if isinstance(state, tuple) else []


def test_weights_do_not_change_the_output() -> None:
    model, ids = build("rfa"), tokens()
    hidden, attended = model.forward_with_weights(ids)
    torch.testing.assert_close(hidden, model(ids), rtol=0, atol=1e-10)
    assert list(attended) == ["layer.0", "layer.1"] == list(model.attention_layers())
    weights = attended["layer.0"].weights
    assert weights is not None
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, N, dtype=torch.float64))
    assert build("gru").forward_with_weights(ids)[1] == {}


@pytest.mark.parametrize(("separable", "dilation"), [(True, 1), (True, 3), (False, 2)])
def test_convolution_equals_its_loop(separable: bool, dilation: int) -> None:
    torch.manual_seed(0)
    mixer = ConvolutionMixer(6, 3, dilation, separable).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    first, gate = mixer.to_gated(x).chunk(2, -1)
    u, kernel = first * gate.sigmoid(), mixer.convolution.weight  # [6, 1 or 6, 3]
    expected = torch.zeros_like(x)
    for t in range(9):
        for j in range(3):
            past = t - (2 - j) * dilation
            if past >= 0:
                expected[:, t] += (
                    u[:, past] * kernel[:, 0, j] if separable else u[:, past] @ kernel[:, :, j].T
                )
    expected = mixer.to_out(expected + mixer.convolution.get_parameter("bias"))
    torch.testing.assert_close(mixer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrence_equals_torch(kind: str) -> None:
    torch.manual_seed(0)
    mixer = RecurrentMixer(kind, 5)
    x = torch.randn(2, 7, 5)
    expected, _ = mixer.cell(x)
    torch.testing.assert_close(mixer(x), expected)


def test_the_output_layer_shares_the_embedding_unless_told_otherwise() -> None:
    tied, free = build("softmax"), build("softmax", tied=False)
    assert tied.output.weight is tied.embedding.weight
    assert free.output.weight is not free.embedding.weight
    copy = build("softmax")
    copy.load_state_dict(tied.state_dict(), assign=True)
    assert copy.output.weight is copy.embedding.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": {"causal": False}}, "causal must be True"),
        ({"attention": {"d_model": 8}}, "d_model and d_memory follow from width"),
        ({"mixer": "transformer"}, "mixer"),
        ({"width": 15}, "heads"),
    ],
)
def test_a_config_that_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises((QKVError, ValueError), match=message):
        LanguageModelConfig(**{"width": 16, "heads": 2, **options})


def test_only_some_models_have_a_bounded_state() -> None:
    bounded = {name for name, options in MODELS.items() if LanguageModelConfig(**options).has_bounded_state}
    assert bounded == set(MODELS) - {
        "softmax",
        "sinusoidal",
        "additive",
        "entmax",
        "convolution, then softmax",
    }


def test_positions_are_no_larger_than_words_at_first() -> None:
    """Larger ones hide the words: after 350 updates on WikiText-2 the perplexity is half as high again."""
    model = LanguageModel(LanguageModelConfig(layers=1, width=64, heads=2, max_length=200), 300)
    words, positions = model.embedding.weight, model.get_parameter("positions.table")
    assert 0.9 < float((positions.std() / words.std()).detach()) < 1.1


def test_the_table_of_sinusoids_does_not_grow_while_decoding() -> None:
    positions, x = Sinusoids(6), torch.zeros(1, 3, 6)
    expected = sinusoids(1000, 6)
    assert torch.equal(positions(torch.zeros(1, 300, 6))[0], expected[:300])
    length = len(positions.table)
    for begin in (0, 297, length - 2, 997):  # within the table, across its end, beyond it
        assert torch.equal(positions(x, begin)[0], expected[begin : begin + 3])
    assert len(positions.table) == length


def test_attention_is_behind_the_convolutions_and_has_its_number() -> None:
    model = build("convolution, then softmax", layers=3)
    assert [type(block.mixer) for block in model.blocks[:1]] == [ConvolutionMixer]
    assert set(model.attention_layers()) == {"layer.1", "layer.2"}
    _, attended = model.forward_with_weights(tokens())
    assert set(attended) == {"layer.1", "layer.2"}
    assert all(each.weights is not None for each in attended.values())


@pytest.mark.parametrize("options", [{"convolution_layers": 2}, {"convolution_layers": 1, "mixer": "gru"}])
def test_convolutions_leave_a_layer_of_attention(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"convolution_layers=\d needs mixer: attention and more layers"
    ):
        LanguageModelConfig(layers=2, **options)
