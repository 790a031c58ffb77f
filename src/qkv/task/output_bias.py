"""The initial bias of output layers."""

import numpy as np
import torch
from torch import nn


def set_bias_to_frequencies(output: nn.Linear, counts: np.ndarray) -> None:
    """b = log((n + 1) / Σ(n + 1)) for symbols counted n times: the first predictions are their frequencies.

    From zero, the bias moves too slowly, because Adam's steps are equally long for all weights.  The layers
    below learn the frequencies in its place, and saturate a tanh above them.

    Args:
        output: the output layer; one without a bias is not changed.
        counts: [V], how often each symbol is predicted in the training data.
    """
    if output.bias is not None:
        frequencies = (counts + 1) / (counts + 1).sum()
        output.bias.data.copy_(torch.from_numpy(np.log(frequencies)))
