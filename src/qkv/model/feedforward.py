"""Position-wise feed-forward networks and normalisations, by name."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.model.dropout import dropout

Activation = Literal["relu", "gelu", "swiglu"]
Normalisation = Literal["layer", "rms"]
Hidden = Float[Tensor, "B N M"]


class FeedForwardNet(nn.Module):
    """f(x W_1) W_2 with ReLU (Vaswani et al. 2017, eq. 2) or GELU, or (silu(x W_1) ∘ x W_3) W_2, SwiGLU.

    SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 6) has three matrices, so its inner width is two thirds of
    `inner`, rounded up to a multiple of 8: as many parameters as the others.

    Args:
        width: M, the width of the input and the output.
        inner: the inner width.
        activation: "relu", "gelu" or "swiglu".
        dropout: dropout rate after the activation.
    """

    def __init__(self, width: int, inner: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.is_gated = activation == "swiglu"
        inner = -(-2 * inner // 24) * 8 if self.is_gated else inner
        self.widen = nn.Linear(width, inner * (1 + self.is_gated), bias=not self.is_gated)
        self.narrow = nn.Linear(inner, width, bias=not self.is_gated)

    def forward(self, x: Hidden) -> Hidden:
        """Apply the same network at every position of x [B,N,M]."""
        inner = self.widen(x)
        if self.is_gated:
            gate, value = inner.chunk(2, -1)
            inner = F.silu(gate) * value
        else:
            inner = F.gelu(inner) if self.activation == "gelu" else inner.relu()
        return self.narrow(dropout(inner, self.dropout, self.training))


def make_norm(kind: Normalisation, width: int) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or, for "rms", RMSNorm (Zhang and Sennrich 2019) over M = `width`."""
    return nn.LayerNorm(width) if kind == "layer" else nn.RMSNorm(width, eps=1e-5)
