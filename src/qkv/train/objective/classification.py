"""The objective of classifiers: cross-entropy of the label given the text or the picture."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import nn

from qkv.train.objective.base import Loss, Objective


class Classification(Objective):
    """Label-smoothed cross-entropy of the class.

    Args:
        model: `model(*batch.inputs)` gives scores [B,C]; `batch.labels` [B] are class numbers.
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
        unit: what a batch holds, in the plural.
    """

    def __init__(self, model: nn.Module, smoothing: float = 0.0, unit: str = "documents") -> None:
        super().__init__()
        self.model, self.smoothing, self.unit = model, smoothing, unit

    def forward(self, batch: Any) -> Loss:
        """The loss of a labelled batch, with metrics nll and accuracy."""
        scores = self.model(*batch.inputs).float()
        labels = batch.labels
        total = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=self.smoothing)
        nll = F.cross_entropy(scores, labels, reduction="sum").detach()
        correct = (scores.argmax(1) == labels).sum()
        return Loss(total, labels.numel(), {"nll": nll, "accuracy": correct})

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The classifier."""
        return self.model
