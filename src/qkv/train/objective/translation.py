"""The objective of translation: cross-entropy of the target, and terms for the sake of the attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.shapes import Attended
from qkv.train.objective import terms
from qkv.train.objective.base import Loss, Objective
from qkv.train.objective.cross_entropy import linear_cross_entropy
from qkv.train.objective.terms import AttentionTerms

NO_TERMS = AttentionTerms()


class Translation(Objective):
    """Label-smoothed cross-entropy of the target given the source, by teacher forcing, and attention's terms.

    `model(source, source_keep, target_in)` gives hidden states [B,T,M'], and `model.output` is a Linear(M',
    V). Only the positions with a real label reach the output layer.  In training, where a term of the
    attention has a weight or an attention samples, `model.attended(...)` is asked, which also shows where
    the model looked.
    """

    def __init__(
        self, model: nn.Module, smoothing: float, attention_terms: AttentionTerms = NO_TERMS
    ) -> None:
        super().__init__()
        self.model, self.smoothing, self.terms = model, smoothing, attention_terms
        layers: Any = getattr(model, "attentions", dict)()
        self.samples = any(
            getattr(layer.spec.select, "estimator", None) == "reinforce" for layer in layers.values()
        )
        self.looks = bool(layers) and (self.samples or self.terms.coverage > 0 or self.terms.entropy > 0)
        if not layers and (self.terms.coverage or self.terms.entropy):
            raise BadRecipe(
                "objective.coverage and objective.entropy need an attention, and the model has none"
            )
        if self.samples:
            self.register_buffer("baseline", torch.tensor(torch.nan))
            self.register_buffer("reward", torch.zeros(2, dtype=torch.float64), persistent=False)
            self.baseline: Tensor
            self.reward: Tensor

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch of pairs, whose targets are BOS ... EOS PAD."""
        real = batch.target_keep[:, 1:]
        given = (batch.source, batch.source_keep, batch.target[:, :-1])
        model: Any = self.model
        hidden, seen = model.attended(*given) if self.training and self.looks else (model(*given), {})
        labels = batch.target[:, 1:][real]
        total, nll, correct = linear_cross_entropy(
            hidden[real], model.output.weight, model.output.bias, labels, smoothing=self.smoothing
        )
        loss = Loss(total, labels.numel(), {"nll": nll.sum(), "accuracy": correct})
        if not seen:
            return loss
        likelihood = torch.zeros_like(real, dtype=nll.dtype).masked_scatter(real, -nll)
        added, metrics = self._terms(seen, real, batch.source_keep, likelihood)
        return Loss(total + added, loss.count, {**loss.metrics, **metrics})

    def _terms(
        self, seen: dict[str, Attended], real: Tensor, source: Tensor, likelihood: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the loss, and the terms by name, unweighted."""
        queries = {name: source if name.startswith("encoder") else real for name in seen}
        cross = [look.weights for name, look in seen.items() if name.startswith("cross")]
        told = self.terms
        added, metrics = likelihood.new_zeros(()), {}
        if told.coverage:
            covered = [terms.coverage(weights, real, source) for weights in cross if weights is not None]
            metrics["coverage"] = torch.stack(covered).mean()
            added = added + told.coverage * metrics["coverage"]
        pairs = [terms.entropy(look, queries[name]) for name, look in seen.items()]
        surrogate, metrics["entropy"] = (torch.stack(each).mean() for each in zip(*pairs, strict=True))
        added = added - told.entropy * surrogate
        if self.samples:
            metrics["reinforce"] = self._reinforce(seen, queries, likelihood, real)
            added = added + told.reinforce * metrics["reinforce"]
        return added, {name: value.detach() for name, value in metrics.items()}

    def _reinforce(
        self, seen: dict[str, Attended], queries: dict[str, Tensor], likelihood: Tensor, real: Tensor
    ) -> Tensor:
        self.reward += torch.stack([likelihood.sum(), real.sum()]).detach()
        to_come = terms.reward_to_come(likelihood, real, self.baseline.nan_to_num(0))
        total = likelihood.new_zeros(())
        for name, look in seen.items():
            if look.log_prob is not None:  # the encoder's choices come before every word
                whole = to_come[:, :1].expand(queries[name].shape)
                reward = whole if name.startswith("encoder") else to_come
                total = total + terms.reinforce(look.log_prob, reward, queries[name])
        return total

    def saved_module(self) -> nn.Module:
        """The translation model."""
        return self.model

    def follow(self, sum_over_processes: Callable[[Tensor], Tensor]) -> None:
        """Let the baseline follow the reward of an update, of all its batches on all processes alike."""
        if self.samples:
            reward, count = sum_over_processes(self.reward)
            now = (reward / count).to(self.baseline)
            before = torch.where(self.baseline.isnan(), now, self.baseline)
            self.baseline.copy_(torch.lerp(now, before, self.terms.baseline_decay))
            self.reward.zero_()
