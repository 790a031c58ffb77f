"""Soft selection: the softmax of the scores."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Allow, Logits, Weights
from qkv.strict import PART


def mask_logits(logits: Logits, allow: Allow, has_keys: Allow) -> Logits:
    """Set the scores of masked keys to -inf, or to 0 in rows that allow no key, where softmax would be NaN.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended.
        has_keys: Whether a row allows any key, [..,T,1].

    Returns:
        The masked scores [B,H,T,S].
    """
    masked_score = torch.zeros_like(has_keys, dtype=logits.dtype).masked_fill(has_keys, -torch.inf)
    return torch.where(allow, logits, masked_score)


def softmax(logits: Logits, allow: Allow | None) -> Weights:
    """Compute exp(e_s) / sum_j exp(e_j) over the allowed keys.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

    Returns:
        Weights [B,H,T,S]; zeros in rows that allow no key.
    """
    if allow is None:
        return logits.softmax(-1)
    has_keys = allow.any(-1, keepdim=True)
    return mask_logits(logits, allow, has_keys).softmax(-1) * has_keys


@dataclass(frozen=True, config=PART)
class Soft(Part):
    """The softmax of the scores.

    References:
        Bahdanau et al. 2015, eq. 6.

    Example:
        >>> q, k, v = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [1.0]]]]), torch.zeros(1, 1, 2, 1)
        >>> qkv.attend(q, k, v, select=qkv.Soft()).weights
        tensor([[[[0.2689, 0.7311]]]])
    """

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "soft"
    formula: ClassVar[str] = "exp(e_s) / sum_j exp(e_j)"
    paper: ClassVar[str] = "Bahdanau et al. 2015, eq. 6"
    sparse: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = True
    gives_log_prob: ClassVar[bool] = False

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Compute the weights.

        Args:
            logits: Scores [B,H,T,S].
            allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

        Returns:
            The weights [B,H,T,S], and None: nothing is sampled, so there is no log-probability.
        """
        return softmax(logits, allow), None
