"""The objective of masked-patch prediction: the squared error of hidden pixels."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from qkv.train.objective.base import Loss, Objective


class Reconstruction(Objective):
    """Mean squared error of the normalised pixels of hidden cells, summed over pictures.

    1 is the error of the mean colour of all pictures.

    Args:
        model: `model(pictures, hidden)` predicts what `model.split_targets(pictures)` holds for each cell.
    """

    unit = "pictures"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Loss:
        """The loss of a `qkv.data.pictures.HiddenBatch`, with the metric mse."""
        model: Any = self.model
        hidden = batch.hidden.flatten(1)
        predicted = model(batch.pictures, batch.hidden).float()
        errors = (predicted - model.split_targets(batch.pictures)).square().mean(-1)
        total = (errors.masked_fill(~hidden, 0).sum(1) / hidden.sum(1)).sum()
        return Loss(total, len(hidden), {"mse": total.detach()})

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The model."""
        return self.model
