"""The objective of translation: cross-entropy of the target given the source, and attention's terms."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from qkv.shapes import Attended
from qkv.train.objective.attention import AttentionObjective, Observed
from qkv.train.objective.base import Loss
from qkv.train.objective.cross_entropy import sum_linear_cross_entropy
from qkv.train.objective.terms import AttentionTerms

NO_TERMS = AttentionTerms()


class TranslationModel(Protocol):
    """What the objective asks of a model, which is an nn.Module."""

    output: nn.Linear

    def __call__(self, source: Tensor, source_keep: Tensor, target_in: Tensor) -> Tensor:
        """Hidden states [B,T,M'] for source tokens [B,S], their mask [B,S] and target tokens [B,T]."""
        ...

    def forward_with_weights(
        self, source: Tensor, source_keep: Tensor, target_in: Tensor
    ) -> tuple[Tensor, dict[str, Attended]]:
        """The same hidden states, and name -> what that attention returned."""
        ...

    def attention_layers(self) -> Mapping[str, Any]:
        """Name -> attention layer; empty for a model without attention."""
        ...

    def attention_places(self) -> Mapping[str, Literal["encoder", "decoder", "cross"]]:
        """Name -> where that attention is."""
        ...

    def layers(self) -> Sequence[nn.Module]:
        """The layers that are called one after another, as modules; empty where there are none."""
        ...

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The modules from the input to the output; see `Objective.layer_groups`."""
        ...


class Translation(AttentionObjective):
    """Label-smoothed cross-entropy of the target given the source, by teacher forcing, and attention's terms.

    `model(source, source_keep, target_in)` gives hidden states [B,T,M'], and `model.output` is a Linear(M',
    V).  Only the positions with a real label reach the output layer.  In training, where a term of the
    attention has a factor or an attention samples, `model.forward_with_weights(...)` is called instead, which
    also returns weights and log-probabilities; `model.attention_places()` says where each attention is.
    """

    def __init__(
        self, model: nn.Module, smoothing: float, attention_terms: AttentionTerms = NO_TERMS
    ) -> None:
        """Wrap a translation model.

        Args:
            model: the model to train, a `TranslationModel`.
            smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
            attention_terms: the factors of the attention's terms.

        Raises:
            BadRecipe: a term has a factor, but the model has no attention.
        """
        declared: TranslationModel = model  # pyright: ignore[reportAssignmentType]
        super().__init__(attention_terms, declared.attention_layers().values())
        self.model, self.smoothing = model, smoothing

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch of pairs.

        Args:
            batch: source [B,S], source_keep [B,S], target [B,T+1], target_keep [B,T+1]; the targets are
                BOS ... EOS PAD.
        """
        real = batch.target_keep[:, 1:]
        inputs = (batch.source, batch.source_keep, batch.target[:, :-1])
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
        observed = self._combine_with_masks_of_queries_and_keys(attended, real, batch.source_keep)
        terms_total, metrics = self.sum_weighted_attention_terms(observed, log_likelihood, real)
        return Loss(total + terms_total, loss.count, {**loss.metrics, **metrics})

    def _combine_with_masks_of_queries_and_keys(
        self, attended: dict[str, Attended], is_real_target: Tensor, is_real_source: Tensor
    ) -> dict[str, Observed]:
        """What every attention returned, with the masks of its queries and keys."""
        model: Any = self.model
        places = model.attention_places()
        masks = {
            "encoder": (is_real_source, is_real_source),
            "decoder": (is_real_target, is_real_target),
            "cross": (is_real_target, is_real_source),
        }
        return {
            name: Observed(
                returned,
                *masks[places[name]],
                is_covering=places[name] == "cross",
                is_before_outputs=places[name] == "encoder",
            )
            for name, returned in attended.items()
        }

    def layers(self) -> Sequence[nn.Module]:
        """The model's layers."""
        model: Any = self.model
        return model.layers()

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The translation model."""
        return self.model
