"""Translation models of either kind: built for their vocabularies, and searched in batches of like length."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from qkv.data import TokenizerPair, iterate_by_length, make_source_dataset
from qkv.decode import Hypothesis, SearchConfig, search
from qkv.model.length_limits import LengthLimits
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer
from qkv.task.translate.recipe import ModelConfig


def build_model(config: ModelConfig, tokens: TokenizerPair) -> nn.Module:
    """The model of a recipe for these vocabularies."""
    kind = RNNTranslator if isinstance(config, RNNConfig) else Transformer
    return kind(config, tokens.source.size, tokens.target.size)  # pyright: ignore[reportArgumentType]


def start_at_frequencies(output: nn.Linear, counts: np.ndarray) -> None:
    """b = log((n + 1) / Σ(n + 1)) for symbols counted n times: the first predictions are their frequencies.

    From zero, the bias moves too slowly for Adam's even steps: the layers below learn the frequencies in its
    place, and a tanh above them saturates doing so.  A layer without bias is left as it is.
    """
    if output.bias is not None:
        shares = (counts + 1) / (counts + 1).sum()
        output.bias.data.copy_(torch.from_numpy(np.log(shares)))


def limit_output_lengths(
    keep: Bool[Tensor, "B S"], config: SearchConfig, model_limits: LengthLimits
) -> Int[Tensor, "B"]:
    """The most symbols in the translation of each source, end symbol included.

    Args:
        keep: [B,S], True at the real tokens of the sources, EOS included.
        config: its `max_length` replaces 2 × (source tokens) + 10.
        model_limits: a model that holds fewer positions stops there.
    """
    limits = 2 * keep.sum(1) + 10
    if config.max_length is not None:
        limits = torch.full_like(limits, config.max_length)
    return limits if model_limits.target is None else limits.clamp_max(model_limits.target.positions)


def decode_ids(
    model: Any,
    source: Sequence[list[int]],
    config: SearchConfig,
    *,
    batch_tokens: int = 4096,
    capture: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[list[Hypothesis]]:
    """Search every source (ids without EOS), in batches of like length; the answers in the order of the
    sources.
    """
    answers: list[list[Hypothesis]] = [[] for _ in source]
    device = next(model.parameters()).device
    finished = 0
    for rows, (ids, keep) in iterate_by_length(
        make_source_dataset(source), max(1, batch_tokens // config.beam)
    ):
        ids, keep = ids.to(device), keep.to(device)
        limits = limit_output_lengths(keep, config, model.length_limits)
        hypotheses = search(model, ids, keep, max_length=limits, config=config, capture=capture)
        for row, best in zip(rows, hypotheses, strict=True):
            answers[row] = best
        finished += len(rows)
        on_progress(finished)
    return answers
