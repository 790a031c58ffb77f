"""The objective of translation: cross-entropy of the target given the source, and attention's terms."""

from typing import Any

import torch
from torch import Tensor, nn

from qkv.shapes import Attended
from qkv.train.objective.attention import AttentionObjective, Observed
from qkv.train.objective.base import Loss
from qkv.train.objective.cross_entropy import linear_cross_entropy
from qkv.train.objective.terms import AttentionTerms

NO_TERMS = AttentionTerms()


class Translation(AttentionObjective):
    """Label-smoothed cross-entropy of the target given the source, by teacher forcing, and attention's terms.

    `model(source, source_keep, target_in)` gives hidden states [B,T,M'], and `model.output` is a Linear(M',
    V). Only the positions with a real label reach the output layer.  In training, where a term of the
    attention has a weight or an attention samples, `model.forward_with_weights(...)` is called instead, which
    also returns what every attention did; `model.attention_places()` says where each of them is.
    """

    def __init__(
        self, model: nn.Module, smoothing: float, attention_terms: AttentionTerms = NO_TERMS
    ) -> None:
        """Wrap a translation model.

        Args:
            model: the model to train.
            smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
            attention_terms: how much the attention's terms weigh.

        Raises:
            BadRecipe: a term has a weight, but the model has no attention.
        """
        layers: Any = getattr(model, "attention_layers", dict)()
        super().__init__(attention_terms, layers.values())
        self.model, self.smoothing = model, smoothing

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch of pairs, whose targets are BOS ... EOS PAD."""
        real = batch.target_keep[:, 1:]
        inputs = (batch.source, batch.source_keep, batch.target[:, :-1])
        model: Any = self.model
        attended: dict[str, Attended] = {}
        if self.training and self.needs_weights:
            hidden, attended = model.forward_with_weights(*inputs)
        else:
            hidden = model(*inputs)
        labels = batch.target[:, 1:][real]
        total, nll, correct = linear_cross_entropy(
            hidden[real], model.output.weight, model.output.bias, labels, smoothing=self.smoothing
        )
        loss = Loss(total, labels.numel(), {"nll": nll.sum(), "accuracy": correct})
        if not attended:
            return loss
        log_likelihood = torch.zeros_like(real, dtype=nll.dtype).masked_scatter(real, -nll)
        observed = self._observed(attended, real, batch.source_keep)
        added, metrics = self.attention_loss(observed, log_likelihood, real)
        return Loss(total + added, loss.count, {**loss.metrics, **metrics})

    def _observed(self, attended: dict[str, Attended], target: Tensor, source: Tensor) -> dict[str, Observed]:
        model: Any = self.model
        places = model.attention_places()
        masks = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
        return {
            name: Observed(
                each,
                *masks[places[name]],
                is_covering=places[name] == "cross",
                is_before_outputs=places[name] == "encoder",
            )
            for name, each in attended.items()
        }

    def saved_module(self) -> nn.Module:
        """The translation model."""
        return self.model
