"""Cross-entropy of a target sequence given a source, by teacher forcing, and attention's terms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.shapes import Attended
from qkv.train.objective.attention import AttentionObjective, Observed, WeightedTerms
from qkv.train.objective.base import Loss
from qkv.train.objective.cross_entropy import sum_linear_cross_entropy
from qkv.train.objective.terms import AttentionTerms

NO_TERMS = AttentionTerms()


class EncoderMasks(NamedTuple):
    """The masks of an attention inside the encoder.

    Args:
        queries: [B,T], True at real queries.
        keys: [B,S], True at real keys.
    """

    queries: Bool[Tensor, "B T"]
    keys: Bool[Tensor, "B S"]


class ConditionalObjective(AttentionObjective, ABC):
    """Base class of objectives that predict a target given a source.

    `model(*source, target_in)` gives hidden states [B,T,M'], and `model.output` is a Linear(M', V).  Only the
    positions with a real label reach the output layer.  In training, where a term of the attention has a
    factor or an attention samples, `model.forward_with_weights(...)` is called instead, which also returns
    weights and log-probabilities; `model.attention_places()` says where each attention is.

    Args:
        model: the model to train.
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
        attention_terms: the factors of the attention's terms.

    Raises:
        BadRecipe: a term has a factor, but the model has no attention.
    """

    def __init__(
        self, model: nn.Module, smoothing: float, attention_terms: AttentionTerms = NO_TERMS
    ) -> None:
        declared: Any = model
        has_source = "cross" in declared.attention_places().values()
        super().__init__(attention_terms, declared.attention_layers().values(), attends_to_source=has_source)
        self.model, self.smoothing = model, smoothing

    @abstractmethod
    def read_source(self, batch: Any) -> tuple[Tensor, ...]:
        """The arguments of the model before the target.

        Args:
            batch: what `forward` got.
        """

    @abstractmethod
    def find_encoder_masks(self, batch: Any, attended: Attended) -> EncoderMasks:
        """The masks of an attention inside the encoder; attention to the source has the same keys.

        Args:
            batch: what `forward` got.
            attended: what the attention returned.
        """

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch.

        Args:
            batch: a source, target [B,T+1] and target_keep [B,T+1]; the targets are BOS ... EOS PAD.
        """
        real = batch.target_keep[:, 1:]
        inputs = (*self.read_source(batch), batch.target[:, :-1])
        model: Any = self.model
        attended: dict[str, Attended] = {}
        if self.training and self.needs_weights:
            hidden, attended = model.forward_with_weights(*inputs)
        else:
            hidden = model(*inputs)
        labels = batch.target[:, 1:][real]
        total, nll, correct = sum_linear_cross_entropy(
            hidden[real], model.output.weight, model.output.bias, labels, smoothing=self.smoothing
        )
        loss = Loss(total, labels.numel(), {"nll": nll.sum(), "accuracy": correct})
        if not attended:
            return loss
        log_likelihood = torch.zeros_like(real, dtype=nll.dtype).masked_scatter(real, -nll)
        terms_total, metrics = self.sum_terms_of_batch(batch, attended, log_likelihood)
        return Loss(total + terms_total, loss.count, {**loss.metrics, **metrics})

    def sum_terms_of_batch(
        self, batch: Any, attended: Mapping[str, Attended], log_likelihood: Float[Tensor, "B T"]
    ) -> WeightedTerms:
        """What the attentions add to the loss.

        Args:
            batch: what `forward` got.
            attended: name -> what that attention returned; at least one.
            log_likelihood: log p(y_t) of every output, 0 where it is not real.
        """
        real = batch.target_keep[:, 1:]
        observed = self._combine_with_masks_of_queries_and_keys(batch, attended)
        return self.sum_weighted_attention_terms(observed, log_likelihood, real)

    def _combine_with_masks_of_queries_and_keys(
        self, batch: Any, attended: Mapping[str, Attended]
    ) -> dict[str, Observed]:
        """What every attention returned, with the masks of its queries and keys."""
        model: Any = self.model
        places, real = model.attention_places(), batch.target_keep[:, 1:]
        observed = {}
        for name, returned in attended.items():
            of_encoder = self.find_encoder_masks(batch, returned)
            masks = {"encoder": of_encoder, "decoder": (real, real), "cross": (real, of_encoder.keys)}
            observed[name] = Observed(
                returned,
                *masks[places[name]],
                is_covering=places[name] == "cross",
                is_before_outputs=places[name] == "encoder",
            )
        return observed

    def layers(self) -> Sequence[nn.Module]:
        """The model's layers."""
        model: Any = self.model
        return model.layers()

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The model."""
        return self.model
