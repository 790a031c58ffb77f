"""Maxima over squares of cells of a feature map, in which some cells may be hidden."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def pool_map(x: Float[Tensor, "B C Y X"], keep: Bool[Tensor, "B Y X"] | None, side: int) -> Tensor:
    """Compute the maximum of every square of real cells.

    Args:
        x: The feature map [B,C,Y,X].
        keep: [B,Y,X], True for real cells; None where all are real.
        side: The side of a square.  The last squares may reach over the border.

    Returns:
        The maxima [B,C,⌈Y/side⌉,⌈X/side⌉]; 0 for a square without real cells.
    """
    if keep is None:
        return F.max_pool2d(x, side, ceil_mode=True)
    pooled = F.max_pool2d(x.masked_fill(~keep[:, None], -torch.inf), side, ceil_mode=True)
    return torch.where(pool_keep(keep, side)[:, None], pooled, 0)


def pool_keep(keep: Bool[Tensor, "B Y X"], side: int) -> Tensor:
    """Find the squares with a real cell.

    Args:
        keep: [B,Y,X], True for real cells.
        side: The side of a square.

    Returns:
        [B,⌈Y/side⌉,⌈X/side⌉], True where one cell of a square is real.
    """
    return F.max_pool2d(keep[:, None].float(), side, ceil_mode=True)[:, 0] > 0
