"""What every evaluator of attention is to the code that trains it."""

from torch import nn


class Core(nn.Module):
    """Base class of the evaluators: attention per head, between the projections of a layer.

    The first dimension of each of its parameters counts heads; a parameter [H, D] is one vector per head.
    """
