"""Pairs of token sequences as batches of tensors: padded on the right, ends marked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batching import Dataset, Ragged
from qkv.errors import BadData
from qkv.symbols import BOS, EOS, PAD


class Pairs(NamedTuple):
    """A batch of pairs, padded on the right with PAD.

    Args:
        source: [B,S] token ids, each row ends in EOS.
        source_keep: [B,S], True at real tokens, EOS included.
        target: [B,T] token ids, each row runs from BOS to EOS.
        target_keep: [B,T], True at real tokens, BOS and EOS included.
    """

    source: Int64[Tensor, "B S"]
    source_keep: Bool[Tensor, "B S"]
    target: Int64[Tensor, "B T"]
    target_keep: Bool[Tensor, "B T"]


class Sources(NamedTuple):
    """A batch of sources without targets, padded on the right with PAD.

    Args:
        ids: [B,S] token ids, each row ends in EOS.
        keep: [B,S], True at real tokens, EOS included.
    """

    ids: Int64[Tensor, "B S"]
    keep: Bool[Tensor, "B S"]


def make_pair_dataset(source: Sequence[Any], target: Sequence[Any]) -> Dataset[Pairs]:
    """The data set of the pairs (source[i], target[i]); the loss counts target tokens, EOS included.

    A pair takes as many positions as the longer of source + EOS and BOS + target + EOS.

    Args:
        source: token ids of every source, without EOS.
        target: token ids of every target, without BOS and EOS.

    Raises:
        BadData: the sides differ in number, or there is no pair.
    """
    if len(source) != len(target) or not len(source):
        raise BadData(
            f"{len(source):,} source and {len(target):,} target lines: give as many of each, at least one"
        )
    sources, targets = Ragged(source), Ragged(target)
    return Dataset(
        (sources, targets),
        collate_pairs,
        positions=np.maximum(sources.lengths + 1, targets.lengths + 2),
        counts=targets.lengths + 1,
        tie_break=sources.lengths,
        row_name="pair",
    )


def make_source_dataset(source: Sequence[Any]) -> Dataset[Sources]:
    """The data set of sources alone, for decoding.

    Args:
        source: token ids of every source, without EOS.
    """
    positions = np.array([len(ids) + 1 for ids in source], dtype=np.int64)
    return Dataset((source,), collate_source, positions=positions, row_name="source")


def count_predicted_tokens(target: Ragged, vocab: int) -> np.ndarray:
    """How often each token is to be predicted in an epoch, EOS included: int64 [V]."""
    counts = np.bincount(target.flat, minlength=vocab)
    counts[EOS] += len(target)
    return counts


def collate_pairs(source: Sequence[Any], target: Sequence[Any]) -> Pairs:
    """Pad pairs of token sequences into one batch.

    Args:
        source: token ids of B sources (lists or integer arrays), without EOS.
        target: token ids of B targets, without BOS and EOS.
    """
    return Pairs(*_pad(source, begin=[]), *collate_target(target))


def collate_source(source: Sequence[Any]) -> Sources:
    """Pad token sequences (without EOS) into one batch. An empty sequence becomes a lone EOS."""
    return Sources(*_pad(source, begin=[]))


def collate_target(target: Sequence[Any]) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Pad token sequences (without BOS and EOS) into rows BOS ... EOS PAD, with the mask of real tokens.

    Args:
        target: token ids of B targets.
    """
    return _pad(target, begin=[BOS])


def _pad(sequences: Sequence[Any], begin: list[int]) -> tuple[Int64[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Token ids between `begin` and EOS, padded on the right, and the mask of real tokens."""
    start = len(begin)
    lengths = np.array([start + len(ids) + 1 for ids in sequences], dtype=np.int64)
    padded = np.full((len(sequences), lengths.max(initial=0)), PAD, dtype=np.int64)
    for row, ids, length in zip(padded, sequences, lengths, strict=True):
        row[:start] = begin
        row[start : length - 1] = ids
        row[length - 1] = EOS
    keep = np.arange(padded.shape[1]) < lengths[:, None]
    return torch.from_numpy(padded), torch.from_numpy(keep)
