"""Layers that share a weight still share it after loading, moving and `to_empty`, in every model."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from qkv.model.captioner import build_captioner
from qkv.model.captioner_config import RecurrentCaptionerConfig, TransformerCaptionerConfig
from qkv.model.encoder import EncoderConfig, MaskedLanguageModel
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.model.seq2seq import RNNTranslator
from qkv.model.seq2seq_config import RNNConfig
from qkv.model.transformer import Transformer
from qkv.model.transformer_config import TransformerConfig

SMALL: dict[str, Any] = {"width": 8, "heads": 2, "feedforward": 8}
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "rnn": (
        lambda: RNNTranslator(RNNConfig(embedding=8, hidden=8, tie=True), 9, 9),
        "target_words",
    ),
    "transformer": (
        lambda: Transformer(TransformerConfig(encoder_layers=1, decoder_layers=1, **SMALL), 9, 9),
        "target",
    ),
    "language": (lambda: LanguageModel(LanguageModelConfig(layers=1, **SMALL), 9), "embedding"),
    "masked": (lambda: MaskedLanguageModel(EncoderConfig(layers=1, **SMALL), 9), "encoder.embedding"),
    "captioner": (
        lambda: build_captioner(RecurrentCaptionerConfig(embedding=8, hidden=8, tie=True), 9),
        "words",
    ),
    "transformer captioner": (
        lambda: build_captioner(TransformerCaptionerConfig(layers=1, tie=True, **SMALL), 9),
        "words",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_output_shares_the_weight_of_the_embedding(name: str) -> None:
    build, table = MODELS[name]
    model, other = build(), build()

    def assert_is_tied() -> None:
        embedding: nn.Module = model.get_submodule(table)
        assert model.output.weight is embedding.weight

    assert_is_tied()
    model.load_state_dict(other.state_dict(), assign=True)
    assert_is_tied()
    model.double()
    assert_is_tied()
    model.to("meta").to_empty(device="cpu")
    assert_is_tied()
