"""Top-k selection: the softmax of the k best keys, nothing for the others."""

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv import masks
from qkv.part import Part
from qkv.select.soft import softmax
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART


def topk(logits: Logits, allow: Allow | None, k: int) -> Weights:
    """Softmax over the k highest allowed logits, over all of them where fewer are allowed.

    Of equal logits the first are taken, never more than k.  A row that allows nothing is all zeros.
    Zhao et al. 2019 (Explicit Sparse Transformer).
    """
    ranked = logits if allow is None else logits.masked_fill(~allow, -torch.inf)
    # A stable sort, not torch.topk: with equal logits that would choose other keys step by step than at once.
    order = ranked.detach().sort(dim=-1, descending=True, stable=True).indices
    best = torch.arange(logits.shape[-1], device=logits.device) < k
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, best.expand_as(order))
    return softmax(logits, masks.intersect(allow, chosen))


@dataclass(frozen=True, config=PART)
class TopK(Part):
    """The softmax of the k highest scores.

    k: how many keys get weight at most.
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
    is_annealed: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The selection itself: it owns no parameters."""
        return self

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Weights [B,H,T,S] and the log-probability of what was sampled: None, nothing is sampled."""
        return topk(logits, allow, self.k), None
