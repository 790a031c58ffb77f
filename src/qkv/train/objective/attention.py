"""Objectives that add terms for their attentions: coverage, entropy, REINFORCE with a baseline."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.errors import BadRecipe
from qkv.shapes import Attended
from qkv.train.objective import terms
from qkv.train.objective.base import Objective
from qkv.train.objective.terms import AttentionTerms


class Observed(NamedTuple):
    """What one attention returned for a batch, and what the terms must know about it.

    Args:
        attended: its weights [B,H,T,S] and, where it samples, its log_prob [B,H,T].
        queries: [B,T], True at real queries.
        keys: [B,S], True at real keys.
        is_covering: whether it should attend to every key once: the coverage term applies.
        is_before_outputs: whether its choices come before every output, as an encoder's do: each is rewarded
            with the likelihood of the whole sequence.
    """

    attended: Attended
    queries: Bool[Tensor, "B T"]
    keys: Bool[Tensor, "B S"]
    is_covering: bool = False
    is_before_outputs: bool = False


class WeightedTerms(NamedTuple):
    """What the attentions add to the loss of a batch.

    Args:
        total: the sum of the terms times their factors, summed over the batch.
        metrics: name -> term without its factor, detached.
    """

    total: Float[Tensor, ""]
    metrics: dict[str, Tensor]


class AttentionObjective(Objective):
    """Base class of objectives with attention terms.

    Where `needs_weights` is True, `forward` passes what every attention returned to
    `sum_weighted_attention_terms`.

    Attributes:
        samples: whether an attention samples, so that REINFORCE is needed.
        needs_weights: whether `sum_weighted_attention_terms` must be called.
    """

    baseline: Tensor
    reward: Tensor

    def __init__(
        self, attention_terms: AttentionTerms, attentions: Iterable[Any], *, attends_to_source: bool
    ) -> None:
        """Choose the terms.

        Args:
            attention_terms: the factor of each term.
            attentions: the attention layers of the model.
            attends_to_source: whether one of them attends to a source or a picture, which it may cover.

        Raises:
            BadRecipe: a term has a factor, but there is no attention, or none that coverage applies to.
        """
        super().__init__()
        self.terms = attention_terms
        layers = list(attentions)
        has_terms = attention_terms.coverage > 0 or attention_terms.entropy > 0
        if has_terms and not layers:
            raise BadRecipe(
                "objective.coverage and objective.entropy need an attention, and the model has none: set "
                "both to 0, or give the model an attention"
            )
        if attention_terms.coverage > 0 and not attends_to_source:
            raise BadRecipe(
                f"objective.coverage={attention_terms.coverage:g} needs attention to a source or a picture, "
                "and the model has none: leave it out"
            )
        self.samples = any(layer.spec.select.gives_log_prob for layer in layers)
        self.needs_weights = bool(layers) and (self.samples or has_terms)
        if self.samples:
            self.register_buffer("baseline", torch.tensor(torch.nan))
            self.register_buffer("reward", torch.zeros(2, dtype=torch.float64), persistent=False)

    def sum_weighted_attention_terms(
        self,
        observed: Mapping[str, Observed],
        log_likelihood: Float[Tensor, "B T"],
        is_real: Bool[Tensor, "B T"],
    ) -> WeightedTerms:
        """What is added to the loss, and the terms by name.

        Args:
            observed: name -> what that attention returned; at least one.
            log_likelihood: log p(y_t) of every output, 0 where it is not real.
            is_real: True at real outputs.

        Returns:
            Both.
        """
        total, metrics = log_likelihood.new_zeros(()), {}
        if self.terms.coverage:
            covered = [
                terms.sum_coverage_penalty(item.attended.weights, item.queries, item.keys)
                for item in observed.values()
                if item.is_covering and item.attended.weights is not None
            ]
            metrics["coverage"] = torch.stack(covered).mean()
            total = total + self.terms.coverage * metrics["coverage"]
        pairs = [
            terms.sum_entropy_surrogate_and_value(item.attended, item.queries) for item in observed.values()
        ]
        surrogate, metrics["entropy"] = (torch.stack(values).mean() for values in zip(*pairs, strict=True))
        total = total - self.terms.entropy * surrogate
        if self.samples:
            metrics["reinforce"] = self._record_reward_and_sum_reinforce_loss(
                observed, log_likelihood, is_real
            )
            total = total + self.terms.reinforce * metrics["reinforce"]
        return WeightedTerms(total, {name: value.detach() for name, value in metrics.items()})

    def _record_reward_and_sum_reinforce_loss(
        self, observed: Mapping[str, Observed], log_likelihood: Tensor, is_real: Tensor
    ) -> Float[Tensor, ""]:
        self.reward += torch.stack([log_likelihood.sum(), is_real.sum()]).detach()
        reward_to_go = terms.compute_reward_to_go(log_likelihood, is_real, self.baseline.nan_to_num(0))
        total = log_likelihood.new_zeros(())
        for item in observed.values():
            if item.attended.log_prob is not None:
                sequence_reward = reward_to_go[:, :1].expand(item.queries.shape)
                reward = sequence_reward if item.is_before_outputs else reward_to_go
                total = total + terms.sum_reinforce_loss(item.attended.log_prob, reward, item.queries)
        return total

    def update_statistics(self, sum_over_processes_in_place: Callable[[Tensor], Tensor]) -> None:
        """Move the baseline towards the mean reward of an update, over all its batches and processes.

        Args:
            sum_over_processes_in_place: adds up a tensor over all processes, in place, and returns it.
        """
        if self.samples:
            reward, count = sum_over_processes_in_place(self.reward)
            mean = (reward / count).to(self.baseline)
            before = torch.where(self.baseline.isnan(), mean, self.baseline)
            self.baseline.copy_(torch.lerp(mean, before, self.terms.baseline_decay))
            self.reward.zero_()
