"""The bytes that a capture may keep, and the pooling that reduces them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qkv.errors import TooLarge
from qkv.shapes import Attended


class Storage:
    """Counts the bytes of captured tensors and refuses those beyond a limit.

    Args:
        max_bytes: The limit.
        pool: How many positions share one entry of the weights; 1 keeps every position.
    """

    def __init__(self, max_bytes: int, pool: int) -> None:
        self.max_bytes, self.pool, self.used = max_bytes, pool, 0

    def check(self, name: str, count: int) -> None:
        """Check that further bytes fit, before they are allocated.

        Args:
            name: The layer that needs them, for the message.
            count: How many.

        Raises:
            TooLarge: They exceed the limit, with what is kept already.
        """
        if self.used + count > self.max_bytes:
            raise TooLarge(
                f"the weights of {name} take {_format(count)}, with {_format(self.used)} captured before: "
                f"more than max_bytes = {_format(self.max_bytes)}. Capture fewer layers= or heads=, pass "
                f"pool={max(8, 4 * self.pool)} to pool blocks of positions, or raise max_bytes="
            )

    def add(self, name: str, count: int) -> None:
        """Count bytes that are kept.

        Args:
            name: The layer that they belong to, for the message.
            count: How many.

        Raises:
            TooLarge: They exceed the limit, with what is kept already.
        """
        self.check(name, count)
        self.used += count


def count_bytes(attended: Attended) -> int:
    """Count the bytes of a result.

    Args:
        attended: The result.

    Returns:
        The bytes of its tensors.
    """
    return sum(x.numel() * x.element_size() for x in attended if x is not None)


def pool_weights(weights: Float[Tensor, "B H T S"], size: int) -> Float[Tensor, "B H T2 S2"]:
    """Pool blocks of positions: the sum over the keys of a block, the mean over its queries.

    Args:
        weights: [B,H,T,S].
        size: The number of positions of a block; the last block may be smaller.

    Returns:
        [B,H,⌈T/size⌉,⌈S/size⌉]; rows that are distributions remain distributions.
    """
    queries, keys = weights.shape[-2:]
    padded = F.pad(weights.float(), (0, -keys % size, 0, -queries % size))
    sums = padded.unflatten(-1, (-1, size)).sum(-1).unflatten(-2, (-1, size)).sum(-2)
    starts = torch.arange(0, queries, size, device=weights.device)
    return sums / (queries - starts).clamp(max=size)[:, None]


def _format(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
