"""Soft selection: every key gets some of the weight."""

from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART


def softmax(logits: Logits, allow: Allow | None) -> Weights:
    """exp(e_s) / sum_j exp(e_j) over the allowed keys; a row that allows nothing is all zeros."""
    if allow is None:
        return logits.softmax(-1)
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~allow, lowest).softmax(-1) * allow


@dataclass(frozen=True, config=PART)
class Soft(Part):
    """The softmax of the scores."""

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "soft"
    formula: ClassVar[str] = "exp(e_s) / sum_j exp(e_j)"
    paper: ClassVar[str] = "Bahdanau et al. 2015, eq. 6"
    sparse: ClassVar[bool] = False
    samples: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The selection itself: it owns no parameters."""
        return self

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Weights [B,H,T,S] and the log-probability of what was sampled: None, nothing is sampled."""
        return softmax(logits, allow), None
