"""The Transformer with any attention in its three places: steps, padding, the future, configuration."""

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from qkv.model.transformer import Transformer, TransformerConfig
from qkv.spec import AttentionSpec
from qkv.strict import describe_errors
from qkv.symbols import BOS

B, S, T, WORDS = 3, 7, 5, 13
LENGTHS = torch.tensor([7, 4, 5])
PLACES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "rfa": {"decoder": {"kernel": "rfa"}, "cross": {"kernel": "rfa"}},
    "gate": {"decoder": {"kernel": {"name": "rfa", "gate": True}}},
    "favor, elu": {"decoder": {"kernel": "favor"}, "cross": {"kernel": "elu"}},
    "window": {
        "encoder": {"scope": {"name": "window", "half_width": 2}},
        "decoder": {"scope": {"name": "window", "half_width": 1}},
    },
    "local-p": {"cross": {"score": "general", "scope": {"name": "predictive", "half_width": 2}}},
    "hard": {"cross": {"select": {"name": "hard", "estimator": "gumbel"}}, "decoder": {"select": "entmax"}},
    "one head": {"cross": {"score": "additive", "heads": 1}},
    "by layer": {
        "encoder_by_layer": {0: {"kernel": "elu"}},
        "decoder_by_layer": {1: {"kernel": {"name": "rfa", "gate": True}}},
        "cross": {"kernel": "elu"},
        "cross_by_layer": {0: {"select": "sparsemax"}},
    },
}
with_every_place = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())


def model_of(places: dict[str, Any], **options: Any) -> Transformer:
    sizes = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "width": 8,
        "heads": 2,
        "feedforward": 11,
        "dropout": 0.0,
    }
    return Transformer(TransformerConfig(**{**sizes, **places, **options}), WORDS, WORDS).double().eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    target = torch.randint(4, WORDS, (B, T))
    target[:, 0] = BOS
    return torch.randint(4, WORDS, (B, S)), torch.arange(S) < LENGTHS[:, None], target


@with_every_place
def test_steps_equal_teacher_forcing_and_show_the_same_weights(places: dict[str, Any]) -> None:
    model, (source, keep, target) = model_of(places), batch()
    hidden, looks = model.forward_with_weights(source, keep, target)
    torch.testing.assert_close(hidden, model(source, keep, target))
    state = model.start(source, keep, capture=True)
    for t, tokens in enumerate(target.unbind(1)):
        step = model.step(tokens, state, capture=True)
        state = step.state
        torch.testing.assert_close(step.logits, model.output(hidden[:, t]).float(), rtol=1e-5, atol=1e-5)
        for name, seen in step.weights.items():
            whole = looks[name].weights
            assert whole is not None
            torch.testing.assert_close(seen, whole[:, :, t, : seen.shape[-1]])


@with_every_place
def test_padding_and_the_future_are_invisible(places: dict[str, Any]) -> None:
    model, (source, keep, target) = model_of(places), batch()
    out = model(source, keep, target)
    junk = source.where(keep, torch.randint(4, WORDS, (B, S)))
    torch.testing.assert_close(model(junk, keep, target), out)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        torch.testing.assert_close(model(source[one, :length], keep[one, :length], target[one]), out[one])
    later = target.clone()
    later[:, 3:] = 4 + (target[:, 3:] + 1) % (WORDS - 4)
    torch.testing.assert_close(model(source, keep, later)[:, :3], out[:, :3])


def test_weights_that_were_not_remembered_are_left_out() -> None:
    model, (source, keep, target) = model_of(PLACES["rfa"]), batch()
    assert model.step(target[:, 0], model.start(source, keep), capture=True).weights == {}


def test_a_place_takes_the_heads_of_the_model_unless_it_names_its_own() -> None:
    heads = {
        name: layer.dims.heads for name, layer in model_of(PLACES["one head"]).attention_layers().items()
    }
    assert heads == {
        f"{place}.{i}": 1 if place == "cross" else 2
        for place in ("encoder", "decoder", "cross")
        for i in (0, 1)
    }


def test_config_round_trips() -> None:
    for places in PLACES.values():
        config = TransformerConfig(**places)
        assert TransformerConfig(**config.model_dump()) == config
        assert TransformerConfig.model_validate_json(config.model_dump_json()) == config
    assert TransformerConfig(cross=AttentionSpec(heads=1)).complete_spec("cross").heads == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross": "additive"}, "'cross' .*expected an attention like {score: additive}, got 'additive'"),
        ({"cross": {"causal": True}}, "cross: causal must be False"),
        ({"decoder": {"causal": False}}, "decoder: causal must be True"),
        ({"encoder": {"d_model": 64}}, "follow from width"),
        ({"cross": {"d_memory": 64}}, "follow from width"),
        ({"decoder": {"scope": "predictive"}}, "scope and causal clash"),
        ({"cross": {"heads": 3}, "width": 128}, "cannot be split into heads=3"),
        ({"heads": 3, "width": 128}, "cannot be split into heads=3"),
        ({"encoder_by_layer": {4: {}}}, "encoder_by_layer has the layer 4, .* are 0 to 3"),
        ({"decoder_by_layer": {0: {"causal": False}}}, "decoder_by_layer.0: causal must be True"),
        ({"cross_by_layer": {0: {"d_memory": 64}}}, "cross_by_layer.0: .* follow from width"),
    ],
)
def test_mistakes_in_the_config_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TransformerConfig(**options)
    assert re.search(message, describe_errors(caught.value), re.DOTALL)
