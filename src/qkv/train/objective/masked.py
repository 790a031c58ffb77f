"""The objective of masked language models: cross-entropy of hidden tokens given all others."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from qkv.train.objective.base import Loss, Objective
from qkv.train.objective.cross_entropy import sum_linear_cross_entropy


class MaskedLanguageModeling(Objective):
    """Cross-entropy of the chosen tokens (Devlin et al. 2019, section 3.1).

    Args:
        model: `model(inputs, keep)` gives hidden states [B,N,M], and `model.output` is a Linear(M, V).
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
    """

    def __init__(self, model: nn.Module, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, batch: Any) -> Loss:
        """The loss of a `qkv.data.masking.MaskedSegment`, with metrics nll and accuracy."""
        hidden = self.model(batch.inputs, batch.keep)[batch.chosen]
        labels = batch.targets[batch.chosen]
        output: Any = self.model.output
        total, nll, correct = sum_linear_cross_entropy(
            hidden, output.weight, output.bias, labels, smoothing=self.smoothing
        )
        return Loss(total, labels.numel(), {"nll": nll.sum(), "accuracy": correct})

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The masked language model."""
        return self.model
