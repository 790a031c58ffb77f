"""Encoders in which single layers have another attention; test_model_language.py has language models."""

from typing import Any

import pytest
import torch

from qkv.cost.crossover import find_crossovers, make_softmax_config
from qkv.errors import QKVError
from qkv.kernel import Elu, Softmax
from qkv.model.encoder import Encoder, EncoderConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.model.patches import PatchConfig, PatchEncoder
from qkv.scope import Window
from qkv.spec import AttentionSpec

MIXED: dict[str, Any] = {"layers": 3, "width": 16, "attention_by_layer": {1: AttentionSpec(kernel=Elu())}}


def test_an_encoder_builds_the_attention_of_every_layer() -> None:
    layers = Encoder(EncoderConfig(**MIXED), 9).attention_layers()
    assert [layer.spec.kernel for layer in layers.values()] == [Softmax(), Elu(), Softmax()]
    assert {layer.spec.heads for layer in layers.values()} == {4}
    grid = PatchEncoder(PatchConfig(**MIXED, patch=4))(torch.zeros(1, 3, 16, 16))
    assert grid.vectors.shape == (1, 16, 16)


def test_the_layers_do_what_their_attention_says() -> None:
    torch.manual_seed(0)
    narrow = AttentionSpec(scope=Window(1))
    config = EncoderConfig(layers=2, width=16, attention=narrow, attention_by_layer={1: AttentionSpec()})
    _, attended = (
        Encoder(config, 9)
        .eval()
        .forward_with_weights(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool))
    )
    first, second = (attended[f"layer.{i}"].weights for i in range(2))
    assert first is not None
    assert second is not None
    assert (first[..., 0, 2] == 0).all()
    assert (second > 0.01).all()


def test_costs_know_every_attention() -> None:
    config = EncoderConfig(**MIXED)
    assert [crossover.name for crossover in find_crossovers(config)] == ["model.attention_by_layer.1"]
    softmax = make_softmax_config(config)
    assert softmax.attention_by_layer[1].kernel == Softmax()


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises((ValueError, QKVError), match=r"has the layer 3, .* with attention are 0 to 2"):
        EncoderConfig(layers=3, attention_by_layer={3: AttentionSpec()})
    with pytest.raises((ValueError, QKVError), match=r"attention_by_layer\.0: causal must be False"):
        EncoderConfig(layers=3, attention_by_layer={0: AttentionSpec(causal=True)})
    with pytest.raises((ValueError, QKVError), match="set attention and sentence_attention"):
        HierarchicalConfig(layers=2, attention_by_layer={0: AttentionSpec()})
