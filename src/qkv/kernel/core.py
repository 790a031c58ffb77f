"""The base class of the evaluators, by which training finds their parameters."""

from torch import nn


class Core(nn.Module):
    """Base class of the evaluators: attention per head, between the projections of a layer.

    The first dimension of every parameter is the head: a parameter [H,D] is one vector per head.
    """
