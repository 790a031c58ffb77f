"""Top-k selection: the softmax of the k highest scores, and no weight for the other keys."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv import masks
from qkv.part import Part
from qkv.select.soft import softmax
from qkv.shapes import Allow, Logits, Weights
from qkv.strict import PART


def topk(logits: Logits, allow: Allow | None, k: int) -> Weights:
    """Compute the softmax over the k highest allowed scores.  Zhao et al. 2019.

    Of equal scores the first ones count, so that no row has more than k weights.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.
        k: The number of keys with weight; rows that allow fewer keys use all of these.

    Returns:
        Weights [B,H,T,S]; zeros in rows that allow no key.
    """
    ranked = logits if allow is None else logits.masked_fill(~allow, -torch.inf)
    # torch.topk is not stable: among equal scores, decoding step by step would select other keys.
    order = ranked.detach().sort(dim=-1, descending=True, stable=True).indices
    is_selected = torch.arange(logits.shape[-1], device=logits.device) < k
    selected = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, is_selected.expand_as(order))
    return softmax(logits, masks.intersect(allow, selected))


@dataclass(frozen=True, config=PART)
class TopK(Part):
    """The softmax of the k highest scores; the other keys get weight 0.

    Args:
        k: The largest number of keys with weight.

    References:
        Zhao et al. 2019 (Explicit Sparse Transformer).

    Example:
        >>> q, k, v = torch.ones(1, 1, 1, 1), torch.tensor([[[[2.0], [0.0], [2.0]]]]), torch.zeros(1, 1, 3, 1)
        >>> qkv.attend(q, k, v, select=qkv.TopK(2)).weights
        tensor([[[[0.5000, 0.0000, 0.5000]]]])
    """

    k: PositiveInt

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "topk"
    formula: ClassVar[str] = "exp(e_s) / sum_j exp(e_j) over the k highest"
    paper: ClassVar[str] = "Zhao et al. 2019 (Explicit Sparse Transformer)"
    sparse: ClassVar[bool] = True
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = False
    gives_log_prob: ClassVar[bool] = False

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Compute the weights.

        Args:
            logits: Scores [B,H,T,S].
            allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

        Returns:
            The weights [B,H,T,S], and None: nothing is sampled, so there is no log-probability.
        """
        return topk(logits, allow, self.k), None
