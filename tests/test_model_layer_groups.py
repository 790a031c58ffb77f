"""The order of layers that every model declares for `train.layer_decay`."""

from typing import Any

import pytest
import torch
from torch import nn

from qkv.model.classifier import Classifier, ClassifierConfig
from qkv.model.encoder import EncoderConfig, MaskedLanguageModel
from qkv.model.hierarchical import HierarchicalClassifier, HierarchicalConfig
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig

SMALL: dict[str, Any] = {"width": 8, "heads": 2, "feedforward": 8}
MODELS: dict[str, tuple[nn.Module, int, set[str]]] = {
    "language": (LanguageModel(LanguageModelConfig(layers=2, **SMALL), 9), 3, {"norm"}),
    "masked": (
        MaskedLanguageModel(EncoderConfig(layers=2, **SMALL), 9),
        3,
        {"encoder.norm", "transform", "transform_norm", "output"},
    ),
    "classifier": (Classifier(ClassifierConfig(layers=2, **SMALL), 9, 2), 3, {"encoder.norm", "output"}),
    "hierarchical": (HierarchicalClassifier(HierarchicalConfig(**SMALL), 9, 2), 3, {"output"}),
    "transformer": (
        Transformer(TransformerConfig(encoder_layers=2, decoder_layers=2, **SMALL), 9, 9),
        5,
        {"decoder_norm"},
    ),
    "rnn": (RNNTranslator(RNNConfig(embedding=8, hidden=8), 9, 9), 3, {"output"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_groups_go_from_the_input_to_the_output(name: str) -> None:
    model, count, above = MODELS[name]
    groups: list[list[nn.Module]] = model.layer_groups()  # pyright: ignore[reportCallIssue]
    assert len(groups) == count
    assert any(isinstance(module, nn.Embedding) for module in groups[0])
    members = {id(p) for group in groups for module in group for p in module.parameters()}
    others = {key.rpartition(".")[0] for key, p in model.named_parameters() if id(p) not in members}
    assert others == above
    assert torch.tensor([len(group) for group in groups]).min() >= 1
