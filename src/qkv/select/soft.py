"""Soft selection: every key gets some of the weight."""

from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART


def hide(logits: Logits, allow: Allow, some: Allow) -> Logits:
    """-inf where a key is hidden, which stays below any finite score; 0 in rows that allow nothing.

    some: whether a row allows any key, [..,T,1].
    """
    lowest = torch.zeros_like(some, dtype=logits.dtype).masked_fill(some, -torch.inf)
    return torch.where(allow, logits, lowest)


def softmax(logits: Logits, allow: Allow | None) -> Weights:
    """exp(e_s) / sum_j exp(e_j) over the allowed keys; a row that allows nothing is all zeros."""
    if allow is None:
        return logits.softmax(-1)
    some = allow.any(-1, keepdim=True)
    return hide(logits, allow, some).softmax(-1) * some


@dataclass(frozen=True, config=PART)
class Soft(Part):
    """The softmax of the scores."""

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "soft"
    formula: ClassVar[str] = "exp(e_s) / sum_j exp(e_j)"
    paper: ClassVar[str] = "Bahdanau et al. 2015, eq. 6"
    sparse: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = True
    gives_log_prob: ClassVar[bool] = False
    is_annealed: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The selection itself: it owns no parameters."""
        return self

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Weights [B,H,T,S] and the log-probability of what was sampled: None, nothing is sampled."""
        return softmax(logits, allow), None
