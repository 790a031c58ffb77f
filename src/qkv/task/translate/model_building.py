"""Builds the translation model of a recipe."""

from torch import nn

from qkv.data import TokenizerPair
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer
from qkv.task.translate.recipe import ModelConfig


def build_model(config: ModelConfig, tokens: TokenizerPair) -> nn.Module:
    """The model of a recipe for the vocabularies of both tokenizers, with random weights."""
    kind = RNNTranslator if isinstance(config, RNNConfig) else Transformer
    return kind(config, tokens.source.size, tokens.target.size)  # pyright: ignore[reportArgumentType]
