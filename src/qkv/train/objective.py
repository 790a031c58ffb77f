"""Objectives: modules that turn a batch into a loss summed over its tokens."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from qkv.train.cross_entropy import linear_cross_entropy


class Loss(NamedTuple):
    """What an objective returns for one batch.

    total: scalar, the differentiable sum over the batch's tokens.
    count: how many tokens that sum is over.
    metrics: name -> detached scalar sum over the same tokens; reports divide it by the count.
    """

    total: Tensor
    count: int
    metrics: dict[str, Tensor]


class Translation(nn.Module):
    """Label-smoothed cross-entropy of the target given the source, by teacher forcing.

    `model(source, source_keep, target_in)` gives hidden states [B,T,M'], and `model.output` is a Linear(M',
    V). Only the positions with a real label reach the output layer.
    """

    def __init__(self, model: nn.Module, smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch of pairs, whose targets are BOS ... EOS PAD."""
        real = batch.target_keep[:, 1:]
        hidden = self.model(batch.source, batch.source_keep, batch.target[:, :-1])[real]
        labels = batch.target[:, 1:][real]
        output: Any = self.model.output
        total, nll, correct = linear_cross_entropy(
            hidden, output.weight, output.bias, labels, smoothing=self.smoothing
        )
        return Loss(total, labels.numel(), {"nll": nll, "accuracy": correct})
