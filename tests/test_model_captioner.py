"""Captioners: equal to a loop formula, steps equal to teacher forcing, search, gradients, configuration."""

import re
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from qkv.decode import SearchConfig, search
from qkv.errors import BadShape
from qkv.model.captioner import build_captioner
from qkv.model.captioner_config import CaptionerConfig
from qkv.model.captioner_encoder import GridConfig, GridEncoder
from qkv.model.stepper import Stepper
from qkv.state import select_rows
from qkv.strict import describe_errors
from qkv.symbols import BOS
from reference.captions import show_attend_tell

WORDS, B, T = 11, 3, 4
Y, X, D = 2, 3, 5
GRID = {"kind": "grid", "width": D}
CNN = {"kind": "cnn", "widths": (4, 8), "groups": 2, "stride": 2}
PATCHES = {"kind": "patches", "patch": 4, "layers": 1, "width": 8, "heads": 2, "feedforward": 8, "dropout": 0}
CONFIG: Any = TypeAdapter(CaptionerConfig)


def recurrent(attention: Any, encoder: Any = GRID, **options: Any) -> dict[str, Any]:
    sizes = {"kind": "rnn", "embedding": 6, "hidden": 8, "dropout": 0.0}
    return {**sizes, "encoder": encoder, "attention": attention, **options}


def transformer(encoder: Any = GRID, **options: Any) -> dict[str, Any]:
    sizes = {"kind": "transformer", "width": 8, "heads": 2, "feedforward": 9, "dropout": 0.0}
    return {**sizes, "encoder": encoder, **options}


RFA = {"kernel": {"name": "rfa", "features": 16}}
CASES: dict[str, dict[str, Any]] = {
    "additive": recurrent({"score": "additive"}),
    "additive, heads": recurrent({"score": "additive", "heads": 2}),
    "general": recurrent({"score": "general"}),
    "location": recurrent({"score": {"name": "location", "length": Y * X}}),
    "scaled dot, heads": recurrent({"heads": 2}),
    "rfa": recurrent(RFA),
    "sparsemax": recurrent({"score": "additive", "select": "sparsemax"}),
    "hard": recurrent({"score": "additive", "select": "hard"}),
    "mean vector": recurrent(None),
    "gru, tied": recurrent({"score": "additive"}, cell="gru", tie=True),
    "cnn": recurrent({"score": "additive"}, CNN),
    "cnn with attention": recurrent(
        {"score": "additive"}, {**CNN, "self_attention": {"after": 1, "form": "sagan"}}
    ),
    "patches": recurrent({"score": "additive"}, PATCHES),
    "transformer": transformer(),
    "transformer, cnn": transformer(CNN, layers=1),
    "transformer, patches, post": transformer(PATCHES, norm="post", positions="learned", tie=False),
    "transformer, rfa": transformer(cross=RFA, decoder=RFA),
    "transformer, by layer": transformer(cross_by_layer={1: RFA}, decoder_by_layer={0: RFA}, layers=2),
    "transformer, additive": transformer(cross={"score": "additive", "heads": 1}, layers=1),
}
every_case = pytest.mark.parametrize("name", CASES)
searched = pytest.mark.parametrize("name", ["additive", "mean vector", "hard", "transformer, cnn", "rfa"])


def build(options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = build_captioner(CONFIG.validate_python(options), WORDS).double().eval()
    assert isinstance(model, Stepper)
    return model


def draw(model: Any) -> tuple[Tensor, Tensor]:
    """Pictures (or grids) of Y × X cells, and captions without padding."""
    generator = torch.Generator().manual_seed(1)
    is_grid = isinstance(model.encoder, GridEncoder)
    shape = (B, Y, X, D) if is_grid else (B, 3, 4 * Y, 4 * X)
    pictures = torch.rand(shape, generator=generator, dtype=torch.float64)
    tokens = torch.randint(4, WORDS, (B, T), generator=generator)
    tokens[:, 0] = BOS
    return pictures, tokens


@pytest.mark.parametrize("name", ["additive", "additive, heads", "rfa", "sparsemax", "mean vector"])
def test_equals_the_loop_formula(name: str) -> None:
    model = build(CASES[name])
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # no bias stays 0
    pictures, tokens = draw(model)
    hidden, attended = model.forward_with_weights(pictures, tokens)
    scores = model.output(hidden)
    for row in range(B):
        expected = show_attend_tell(model, pictures[row].flatten(0, 1), tokens[row].tolist())
        torch.testing.assert_close(scores[row], expected.scores)
        assert (expected.gates - expected.gates[0]).abs().max() > 1e-4
        if expected.weights is None:
            assert attended == {}
        else:
            torch.testing.assert_close(attended["cross.0"].weights[row], expected.weights)


@every_case
def test_steps_equal_teacher_forcing_and_give_the_same_weights(name: str) -> None:
    model = build(CASES[name]).requires_grad_(False)
    pictures, tokens = draw(model)
    hidden, attended = model.forward_with_weights(pictures, tokens)
    torch.testing.assert_close(hidden, model(pictures, tokens), rtol=0, atol=1e-12)
    assert set(attended) == set(model.attention_layers()) == set(model.attention_places())
    scores, state = model.output(hidden), model.start(pictures, capture=True)
    for t in range(T):
        step = model.step(tokens[:, t], state, capture=True)
        assert not model.step(tokens[:, t], state).weights
        state = step.state
        torch.testing.assert_close(step.logits, scores[:, t])
        for key, weights in step.weights.items():
            torch.testing.assert_close(weights, attended[key].weights[:, :, t, : weights.shape[-1]])
    for key, value in attended.items():
        assert key.startswith("encoder.") or value.weights.shape[:1] + value.weights.shape[2:3] == (B, T)
        torch.testing.assert_close(value.weights.sum(-1), torch.ones_like(value.weights[..., 0]))


@every_case
def test_rows_are_independent_and_later_words_do_not_leak(name: str) -> None:
    model = build(CASES[name]).requires_grad_(False)
    pictures, tokens = draw(model)
    hidden, order = model(pictures, tokens), torch.tensor([2, 0, 0])
    torch.testing.assert_close(model(pictures[order], tokens[order]), hidden[order])
    torch.testing.assert_close(model(pictures[1:2], tokens[1:2]), hidden[1:2])
    changed = tokens.clone()
    changed[:, 2:] = 0  # as padding
    torch.testing.assert_close(model(pictures, changed)[:, :2], hidden[:, :2])
    state = model.step(tokens[:, 0], model.start(pictures)).state
    reordered = model.step(tokens[order, 1], select_rows(state, order)).logits
    torch.testing.assert_close(reordered, model.output(hidden)[order, 1])
    assert (model(pictures.flip(0), tokens)[0] - hidden[0]).abs().max() > 1e-6  # the pictures matter


@searched
def test_a_batch_is_searched_like_its_pictures_one_by_one(name: str) -> None:
    model = build(CASES[name])
    pictures, _ = draw(model)
    config = SearchConfig(beam=3, n_best=2, max_length=5)
    results = search(model, pictures, config=config, capture=True)
    for row in range(B):
        alone = search(model, pictures[row : row + 1], config=config, capture=True)[0]
        for one, other in zip(results[row], alone, strict=True):
            assert one.tokens == other.tokens
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert len(one.weights.get("cross.0", one.tokens)) >= len(one.tokens)
            for key, steps in one.weights.items():
                torch.testing.assert_close(steps, other.weights[key])


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("hard", "rfa", "transformer, rfa")])
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = build(CASES[name]).train()
    for key, parameter in model.encoder.named_parameters():
        if key.endswith(("norm.weight", "gamma")):
            nn.init.ones_(parameter)  # residual branches start with a scale of zero
    pictures, tokens = draw(model)
    model.output(model(pictures, tokens)).log_softmax(-1)[..., 5].sum().backward()
    unused = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [key for key in unused if not key.endswith("to_kv.bias")] == []


def test_a_captioner_made_on_the_meta_device_is_initialised_like_others() -> None:
    for name in ("cnn", "gru, tied", "transformer, patches, post"):
        real = build(CASES[name])
        with torch.device("meta"):
            model: Any = build_captioner(real.config, WORDS)
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.constant_(parameter, torch.nan)
        model.reset_parameters()
        for key, value in model.named_parameters():
            expected = real.get_parameter(key)
            assert value.isfinite().all(), key
            if expected.numel() > 30:
                assert expected.std() / 2 <= value.std() <= expected.std() * 2, key
        assert (model.output.weight is model.words.weight) == real.config.tie


@pytest.mark.parametrize(
    ("name", "count", "above"),
    [
        ("cnn with attention", 4, {"output"}),
        ("additive", 1, {"output"}),
        ("transformer, patches, post", 5, {"encoder.norm", "output"}),
    ],
)
def test_groups_go_from_the_pictures_to_the_words(name: str, count: int, above: set[str]) -> None:
    model = build(CASES[name])
    groups = model.layer_groups()
    assert len(groups) == count
    members = {id(p) for group in groups for module in group for p in module.parameters()}
    assert {key.rpartition(".")[0] for key, p in model.named_parameters() if id(p) not in members} == above


@every_case
def test_a_config_survives_a_recipe(name: str) -> None:
    config = CONFIG.validate_python(CASES[name])
    assert CONFIG.validate_python(CONFIG.dump_python(config, mode="json")) == config


def test_a_grid_of_another_shape_is_refused() -> None:
    encoder = GridEncoder(GridConfig(width=D))
    for grids in (torch.zeros(B, D, Y, X), torch.zeros(B, Y * X, D), torch.zeros(B, Y, X, D).long()):
        with pytest.raises(BadShape, match=re.escape("[batch, height, width, 5]")):
            encoder(grids)
    assert encoder(torch.zeros(B, Y, X, D).half()).vectors.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (recurrent({"score": "additive", "causal": True}), "causal has no meaning"),
        (recurrent({"score": "additive", "d_model": 8}), "follow from hidden"),
        (recurrent({"score": "scaled_dot", "project": False}), "needs a score for two widths"),
        (
            recurrent({"scope": {"name": "neighbourhood", "height": 2, "width": 3, "radius": 1}}),
            "scope global",
        ),
        (transformer(cross={"causal": True}), "causal must be False"),
        (transformer(decoder={"d_memory": 8}), "follow from width"),
        (transformer(width=9), "cannot be split into heads=2"),
        (transformer({"kind": "net"}), "'cnn', 'patches', 'grid'"),
    ],
)
def test_a_config_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CONFIG.validate_python(options)
    assert re.search(message, describe_errors(caught.value), re.DOTALL)


def test_limits_name_the_key_that_sets_them() -> None:
    limits = [build(CASES[name]).length_limits for name in ("location", "transformer, patches, post")]
    assert limits[0].source == (Y * X, "model.attention.score.length")
    assert limits[0].target is None
    assert limits[1].source == (512, "model.encoder.max_length")
    assert limits[1].target == (512, "model.max_length")
