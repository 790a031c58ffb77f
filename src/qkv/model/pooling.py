"""From hidden states of every token to one vector per text."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.score import Additive
from qkv.shapes import Attended

PoolKind = Literal["mean", "first", "attention"]


class MeanPool(nn.Module):
    """The mean over real tokens; 0 for a text without any."""

    def forward(self, hidden: Float[Tensor, "B N M"], keep: Bool[Tensor, "B N"]) -> Attended:
        """The mean [B,M], with weights None."""
        total = (hidden * keep[..., None]).sum(1)
        return Attended(total / keep.sum(1, keepdim=True).clamp_min(1), None)


class FirstPool(nn.Module):
    """The hidden state of the first token, which stands for the whole text (Devlin et al. 2019)."""

    def forward(self, hidden: Float[Tensor, "B N M"], keep: Bool[Tensor, "B N"]) -> Attended:
        """The first state [B,M], with weights None."""
        return Attended(hidden[:, 0] * keep[:, :1], None)


class AttentionPool(nn.Module):
    """Additive attention from one learned query.  Yang et al. 2016 (NAACL), eq. 5 to 7.

        u_t = tanh(W h_t + b);   a_t = softmax_t(u_t · u);   out = Σ_t a_t h_t

    Args:
        width: M, the width of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.attention = Attention(width, heads=1, score=Additive(), project=False)
        self._initialise_query()

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        self.attention.reset_parameters()
        self._initialise_query()

    def forward(self, hidden: Float[Tensor, "B N M"], keep: Bool[Tensor, "B N"]) -> Attended:
        """The weighted mean [B,M] with its weights [B,1,1,N]."""
        query = self.query.expand(hidden.shape[0], -1, -1)
        attended = self.attention.attend(query, hidden, keep=keep)
        return attended._replace(out=attended.out[:, 0])

    def _initialise_query(self) -> None:
        nn.init.normal_(self.query, std=self.query.shape[-1] ** -0.5)


def make_pool(kind: PoolKind, width: int) -> nn.Module:
    """The pooling of that name over states of this width."""
    return AttentionPool(width) if kind == "attention" else {"mean": MeanPool, "first": FirstPool}[kind]()
