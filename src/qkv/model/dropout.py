"""Dropout whose mask costs little on a CPU.

torch draws one Bernoulli number per element there, which takes a fifth of the time a small Transformer
trains.  Here one 64-bit draw decides four elements, each by comparing 16 random bits with the rate, rounded
to 1/65536.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """x with each element zero with probability `rate` and else divided by 1 - rate, in training.  Srivastava
    2014.
    """
    if not training or rate == 0:
        return x
    if x.device.type != "cpu" or rate == 1:
        return F.dropout(x, rate)
    cut = min(round(rate * LEVELS), LEVELS - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= cut - LEVELS // 2
    return x * (keep.to(x.dtype) * (LEVELS / (LEVELS - cut)))
