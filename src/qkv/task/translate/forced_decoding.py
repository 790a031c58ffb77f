"""Forced decoding of known translations: weights, log-probabilities, the effect of leaving words out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.data import collate_pairs
from qkv.view.words import group_words

BATCH = 64  # sources without a word that are scored together


def compute_weights(
    model: Any, source: Sequence[int], target: Sequence[int]
) -> dict[str, Float[np.ndarray, "H T S"]]:
    """The weights of every layer; the first step of the decoder reads the begin symbol.

    Args:
        model: the translation model.
        source: token ids, without the end symbol.
        target: token ids, without begin and end symbol.
    """
    device = next(model.parameters()).device
    source_ids, keep, target_ids, _ = (x.to(device) for x in collate_pairs([source], [target]))
    with torch.inference_mode():
        _, attended = model.forward_with_weights(source_ids, keep, target_ids[:, :-1])
    return {name: each.weights[0].float().cpu().numpy() for name, each in attended.items()}


def score_tokens(
    model: Any, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Float[Tensor, "B T"]:
    """The log-probability of every target token, of the end symbol after the last one, and 0 at padding.

    Args:
        model: the translation model.
        sources: token ids, without the end symbol.
        targets: token ids, without begin and end symbol.
    """
    device = next(model.parameters()).device
    source, keep, target, target_keep = (x.to(device) for x in collate_pairs(sources, targets))
    with torch.inference_mode():
        logits = model.output(model(source, keep, target[:, :-1])).float()
    log_probs = logits.log_softmax(-1).gather(-1, target[:, 1:, None])[..., 0]
    return log_probs.masked_fill(~target_keep[:, 1:], 0)


def measure_occlusion(
    model: Any, source: Sequence[int], pieces: Sequence[str], target: Sequence[int], count: int
) -> Float[np.ndarray, "1 T S"]:
    """How much the log-probability of every target token falls when a source word is left out.

    The effect of a word is divided evenly between its pieces, so that it is the sum over them. The end symbol
    of the source cannot be left out: its effect is 0.

    Args:
        model: the translation model.
        source: token ids of the source, without the end symbol.
        pieces: the tokens of the source, without the end symbol.
        target: token ids of the target, without begin and end symbol.
        count: T, the number of target tokens to score, with the end symbol if it was emitted.
    """
    words = group_words(pieces)
    shortened = [[token for i, token in enumerate(source) if i not in word] for word in words]
    complete = score_tokens(model, [source], [target])[0, :count]
    falls = np.zeros((1, count, len(source) + 1), np.float32)
    for start in range(0, len(words), BATCH):
        batch = shortened[start : start + BATCH]
        scores = score_tokens(model, batch, [target] * len(batch))[:, :count]
        for word, fall in zip(words[start : start + BATCH], (complete - scores).cpu().numpy(), strict=True):
            falls[0, :, word] = fall / len(word)
    return falls
