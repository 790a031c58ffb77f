"""Where the pixels of a picture are, and where the cells of the grid are that a network makes of it."""

import torch
from jaxtyping import Float
from torch import Tensor


def append_coordinates(pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
    """Pictures with two more channels: row and column, from -1 to 1.  Liu et al. 2018, section 3.

    Args:
        pictures: the pictures, or maps.

    Returns:
        [B,C+2,H,W].

    Example:
        >>> import torch
        >>> append_coordinates(torch.zeros(1, 1, 1, 3))[0, 1:].tolist()
        [[[0.0, 0.0, 0.0]], [[-1.0, 0.0, 1.0]]]
    """
    batch, _, height, width = pictures.shape
    rows, columns = (_spread(size, pictures) for size in (height, width))
    grid = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])
    return torch.cat([pictures, grid.expand(batch, -1, -1, -1)], 1)


def _spread(size: int, like: Tensor) -> Tensor:
    """`size` numbers from -1 to 1; 0 where there is one."""
    steps = torch.arange(size, dtype=like.dtype, device=like.device)
    return (2 * steps - (size - 1)) / max(size - 1, 1)
