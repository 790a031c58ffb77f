"""A batch of sentence pairs as tensors: padded on the right, ends marked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.tokens import BOS, EOS, PAD


class Pairs(NamedTuple):
    """source [B,S] ends in EOS; target [B,T] runs from BOS to EOS; both padded on the right with PAD.

    The keep masks are True on real tokens, EOS and BOS included.
    """

    source: Int64[Tensor, "B S"]
    source_keep: Bool[Tensor, "B S"]
    target: Int64[Tensor, "B T"]
    target_keep: Bool[Tensor, "B T"]


def collate(rows: Sequence[tuple[Any, Any]]) -> Pairs:
    """Pad pairs of token-id sequences (lists or integer arrays, without BOS and EOS) into one batch."""
    source, source_keep = _padded([ids for ids, _ in rows], start=[])
    target, target_keep = _padded([ids for _, ids in rows], start=[BOS])
    return Pairs(source, source_keep, target, target_keep)


def collate_source(rows: Sequence[Any]) -> tuple[Int64[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Pad token-id sequences (without EOS) into (source, keep).  An empty one becomes a lone EOS."""
    return _padded(rows, start=[])


def _padded(rows: Sequence[Any], start: list[int]) -> tuple[Int64[Tensor, "B N"], Bool[Tensor, "B N"]]:
    lead = len(start)
    lengths = np.array([lead + len(ids) + 1 for ids in rows], dtype=np.int64)
    padded = np.full((len(rows), lengths.max(initial=0)), PAD, dtype=np.int64)
    for row, ids, length in zip(padded, rows, lengths, strict=True):
        row[:lead] = start
        row[lead : length - 1] = ids
        row[length - 1] = EOS
    keep = np.arange(padded.shape[1]) < lengths[:, None]
    return torch.from_numpy(padded), torch.from_numpy(keep)
