"""Builds the translation model of a recipe."""

import numpy as np
import torch
from torch import nn

from qkv.data import TokenizerPair
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer
from qkv.task.translate.recipe import ModelConfig


def build_model(config: ModelConfig, tokens: TokenizerPair) -> nn.Module:
    """The model of a recipe for the vocabularies of both tokenizers, with random weights."""
    kind = RNNTranslator if isinstance(config, RNNConfig) else Transformer
    return kind(config, tokens.source.size, tokens.target.size)  # pyright: ignore[reportArgumentType]


def set_bias_to_frequencies(output: nn.Linear, counts: np.ndarray) -> None:
    """b = log((n + 1) / Σ(n + 1)) for symbols counted n times: the first predictions are their frequencies.

    From zero, the bias moves too slowly, because Adam's steps are equally long for all weights.  The layers
    below learn the frequencies in its place, and saturate a tanh above them.

    Args:
        output: the output layer; one without a bias is not changed.
        counts: [V], how often each symbol is predicted in the training data.
    """
    if output.bias is not None:
        frequencies = (counts + 1) / (counts + 1).sum()
        output.bias.data.copy_(torch.from_numpy(np.log(frequencies)))
