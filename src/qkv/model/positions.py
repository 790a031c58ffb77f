"""Where a token stands: fixed sinusoids or a learned table, added to the embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import BadShape


def sinusoids(length: int, width: int) -> Float[Tensor, "N M"]:
    """PE(p, 2i) = sin(p / 10000^(2i/M)), PE(p, 2i+1) = cos(same).  Vaswani et al. 2017, section 3.5."""
    rates = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : width // 2]
    return table.float()


class Sinusoids(nn.Module):
    """Adds the sinusoids; the table grows when a longer sequence comes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", sinusoids(256, width), persistent=False)
        self.table: Tensor

    def forward(self, x: Float[Tensor, "B N M"], begin: int = 0) -> Float[Tensor, "B N M"]:
        """x plus the sinusoids of positions begin … begin + N - 1."""
        end = begin + x.shape[1]
        if end > len(self.table):
            self.table = sinusoids(2 * end, self.width).to(self.table)
        return x + self.table[begin:end]


class LearnedPositions(nn.Module):
    """Adds a learned vector per position, up to a fixed length.  Gehring et al. 2017, section 3.1."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, width) * width**-0.5)

    def forward(self, x: Float[Tensor, "B N M"], begin: int = 0) -> Float[Tensor, "B N M"]:
        """x plus the vectors of positions begin … begin + N - 1; BadShape beyond the table."""
        end = begin + x.shape[1]
        if end > len(self.table):
            raise BadShape(
                f"position {end} is beyond the {len(self.table)} learned positions of this model: shorten "
                "the input, or train with positions=sinusoidal or a larger max_length"
            )
        return x + self.table[begin:end]
