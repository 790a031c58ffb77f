"""Models in which single layers have another attention; test_model_language.py has language models."""

from typing import Any

import pytest
import torch

from qkv.cost.crossover import find_crossovers, make_softmax_config
from qkv.errors import QKVError
from qkv.kernel import Elu, Softmax
from qkv.model.captioner_config import TransformerCaptionerConfig
from qkv.model.encoder import Encoder, EncoderConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.model.patches import PatchConfig, PatchEncoder
from qkv.model.transformer import Transformer, TransformerConfig
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


def test_a_transformer_builds_the_attention_of_every_layer_of_every_place() -> None:
    own: dict[str, Any] = {
        "encoder_by_layer": {0: AttentionSpec(kernel=Elu())},
        "decoder_by_layer": {1: AttentionSpec(causal=True, kernel=Elu())},
        "cross_by_layer": {1: AttentionSpec(scope=Window(1))},
    }
    sizes: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "width": 16, "feedforward": 8}
    config = TransformerConfig(**sizes, **own)
    specs = {name: layer.spec for name, layer in Transformer(config, 9, 9).attention_layers().items()}
    kernels = {name: type(spec.kernel) for name, spec in specs.items()}
    assert [name for name, kernel in kernels.items() if kernel is Elu] == ["encoder.0", "decoder.1"]
    assert [name for name, spec in specs.items() if spec.scope == Window(1)] == ["cross.1"]
    names = [crossover.name for crossover in find_crossovers(config)]
    assert names == ["model.encoder_by_layer.0", "model.decoder_by_layer.1", "model.cross_by_layer.1"]
    softmax = make_softmax_config(config)
    assert set(Transformer(softmax, 9, 9).attention_layers()) == set(specs)
    assert find_crossovers(softmax) == []


def test_limits_of_single_layers_count() -> None:
    location: Any = {0: {"score": {"name": "location", "length": 9}}}
    limits = TransformerConfig(cross_by_layer=location).length_limits
    assert limits.source == (9, "model.cross_by_layer.0.score.length")
    captioner = TransformerCaptionerConfig(cross_by_layer=location)
    assert captioner.length_limits.source == (9, "model.cross_by_layer.0.score.length")


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises((ValueError, QKVError), match=r"has the layer 3, .* with attention are 0 to 2"):
        EncoderConfig(layers=3, attention_by_layer={3: AttentionSpec()})
    with pytest.raises((ValueError, QKVError), match=r"attention_by_layer\.0: causal must be False"):
        EncoderConfig(layers=3, attention_by_layer={0: AttentionSpec(causal=True)})
    with pytest.raises((ValueError, QKVError), match="set attention and sentence_attention"):
        HierarchicalConfig(layers=2, attention_by_layer={0: AttentionSpec()})
