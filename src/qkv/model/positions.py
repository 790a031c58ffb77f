"""Encodings of positions that are added to the embeddings: fixed sinusoids or a learned table."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import BadShape
from qkv.tracing import holds_for_all_sizes, is_recording


def sinusoids(length: int, width: int, begin: int = 0) -> Float[Tensor, "N M"]:
    """Compute PE(p, 2i) = sin(p / 10000^(2i/M)) and PE(p, 2i+1) = cos(p / 10000^(2i/M)).

    Vaswani et al. 2017, section 3.5.

    Args:
        length: N, the number of positions.
        width: M.
        begin: The first position.

    Returns:
        The table [N,M] in float32, on the CPU.
    """
    options = {"dtype": torch.float64, "device": "cpu"}  # not every device has float64
    rates = 10000 ** (-torch.arange(0, width, 2, **options) / width)
    angles = torch.arange(begin, begin + length, **options)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].float()


class Sinusoids(nn.Module):
    """Adds the sinusoids.  The table grows with the longest sequence that is read at once.

    The table is not in the state_dict; it is computed again wherever it may have been lost.

    Args:
        width: M.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", torch.empty(256, width), persistent=False)
        self.table: Tensor
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the table again."""
        self.table = sinusoids(self.table.shape[0], self.width).to(self.table)

    def forward(self, x: Float[Tensor, "B N M"], begin: int = 0) -> Float[Tensor, "B N M"]:
        """Add the sinusoids of positions begin … begin + N - 1.

        Args:
            x: Embeddings [B,N,M].
            begin: The position of the first one.

        Returns:
            The sum [B,N,M].
        """
        end = begin + x.shape[1]
        if is_recording(end):  # a recorded program cannot replace the table
            table = (
                self.table
                if holds_for_all_sizes(end <= self.table.shape[0])
                else sinusoids(end, self.width).to(x)
            )
            return x + table[begin:end]
        if begin > 0 and end > self.table.shape[0]:  # decoding: memory must not grow with the text
            return x + sinusoids(x.shape[1], self.width, begin).to(x.device, self.table.dtype)
        if end > self.table.shape[0] or self.table.device != x.device:
            length = max(2 * end, self.table.shape[0])
            self.table = sinusoids(length, self.width).to(x.device, self.table.dtype)
        return x + self.table[begin:end]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # to_empty calls this
        self.reset_parameters()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if self.table.is_meta:  # load_state_dict(assign=True) does not replace it
            self.table = torch.empty_like(self.table, device="cpu")
            self.reset_parameters()


class LearnedPositions(nn.Module):
    """Adds a learned vector per position, up to a fixed length.  Gehring et al. 2017, section 3.1.

    Args:
        width: M.
        length: The largest number of positions.
        std: The standard deviation of the initial vectors; None for 1 / sqrt(M).
    """

    def __init__(self, width: int, length: int, std: float | None = None) -> None:
        super().__init__()
        self.table, self.std = nn.Parameter(torch.empty(length, width)), std or width**-0.5
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the vectors at random."""
        nn.init.normal_(self.table, std=self.std)

    def forward(self, x: Float[Tensor, "B N M"], begin: int = 0) -> Float[Tensor, "B N M"]:
        """Add the vectors of positions begin … begin + N - 1.

        Args:
            x: Embeddings [B,N,M].
            begin: The position of the first one.

        Returns:
            The sum [B,N,M].

        Raises:
            BadShape: A position is beyond the table.
        """
        end = begin + x.shape[1]
        if end > len(self.table):
            raise BadShape(
                f"position {end} is beyond the {len(self.table)} learned positions of this model: shorten "
                "the input, or train with positions=sinusoidal or a larger max_length"
            )
        return x + self.table[begin:end]


class NoPositions(nn.Module):
    """Adds nothing: recurrence and convolution know the order, and so does a causal mask in part."""

    def forward(self, x: Float[Tensor, "B N M"], begin: int = 0) -> Float[Tensor, "B N M"]:
        """x itself."""
        return x
