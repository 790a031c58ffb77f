"""Searches for translations in batches of like length."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.data import iterate_by_length, make_source_dataset
from qkv.decode import Hypothesis, SearchConfig, search
from qkv.model.length_limits import LengthLimits


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
    """Search for translations of every source, in batches of like length.

    Args:
        model: the translation model.
        source: token ids of every source, without EOS.
        config: how to search.
        batch_tokens: the most source positions of a batch, times the beam.
        capture: keep the attention weights.
        on_progress: is called with the number of sources that are finished.

    Returns:
        The hypotheses of every source, best first, in the order of the sources.
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
