"""The objective of language models: cross-entropy of every token given those before it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.shapes import Attended
from qkv.state import detach, from_plain, map_tensors, to_plain
from qkv.train.objective.attention import AttentionObjective, Observed
from qkv.train.objective.base import Loss
from qkv.train.objective.output_layer import sum_output_cross_entropy
from qkv.train.objective.terms import AttentionTerms

NO_TERMS = AttentionTerms()


class LanguageModeling(AttentionObjective):
    """Cross-entropy of the next token, by teacher forcing, and attention's terms.

    A batch has `inputs`, `targets`, `keep` (True at real tokens) and `scored` (True at the targets that
    count), all [B,N], and `is_start`, True where its rows do not continue those of the batch before.

    Args:
        model: `model(inputs)` gives hidden states [B,N,M], and `model.output` is a Linear(M, V) or an
            `AdaptiveOutput`.
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
        attention_terms: how much the attention's terms weigh.
        carries_state: every batch starts from the model's state after the batch before, without gradient.

    Raises:
        BadRecipe: a state is carried, but the attention's terms need the weights; or coverage has a factor,
            for there is no source to cover.
    """

    def __init__(
        self,
        model: nn.Module,
        smoothing: float = 0.0,
        attention_terms: AttentionTerms = NO_TERMS,
        carries_state: bool = False,
    ) -> None:
        declared: Any = model
        super().__init__(attention_terms, declared.attention_layers().values(), attends_to_source=False)
        if carries_state and self.needs_weights:
            raise BadRecipe(
                "attention that samples, and the terms coverage and entropy, read whole segments and cannot "
                "carry a state: set batch.carry=false, or leave them out"
            )
        self.model, self.smoothing, self.carries_state = model, smoothing, carries_state
        self.state: Any = None

    def forward(self, batch: Any) -> Loss:
        """The loss of a batch of token segments.

        Args:
            batch: inputs, targets, keep, scored and is_start; see `qkv.data.streams.Segment`.

        Returns:
            The loss over the targets that count, with metrics nll and accuracy.
        """
        hidden, attended = self._compute_hidden_states_and_advance_carried_state(batch)
        real, scored = batch.keep, batch.scored
        labels = batch.targets[scored]
        output: Any = self.model.output
        total, nll, correct = sum_output_cross_entropy(
            output, hidden[scored], labels, smoothing=self.smoothing
        )
        metrics = {"nll": nll.sum(), "accuracy": correct}
        if not attended:
            return Loss(total, labels.numel(), metrics)
        log_likelihood = torch.zeros_like(real, dtype=nll.dtype).masked_scatter(scored, -nll)
        observed = {name: Observed(each, real, real) for name, each in attended.items()}
        terms, term_metrics = self.sum_weighted_attention_terms(observed, log_likelihood, scored)
        return Loss(total + terms, labels.numel(), {**metrics, **term_metrics})

    def _compute_hidden_states_and_advance_carried_state(
        self, batch: Any
    ) -> tuple[Tensor, dict[str, Attended]]:
        model: Any = self.model
        if self.training and self.needs_weights:
            return model.forward_with_weights(batch.inputs)
        if not self.carries_state:
            return model(batch.inputs), {}
        rows = batch.inputs.shape[0]
        state = model.start(batch=rows) if batch.is_start or self.state is None else self.state
        hidden, after = model.extend(batch.inputs, state)
        self.state = detach(after)
        return hidden, {}

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The model's groups of layers."""
        model: Any = self.model
        return model.layer_groups()

    def saved_module(self) -> nn.Module:
        """The language model."""
        return self.model

    def carried_state(self) -> Any:
        """The state of the model after the last batch; None where the next batch starts from an empty one."""
        return None if self.state is None else to_plain(self.state)

    def restore_carried_state(self, carried: Any) -> None:
        """Continue from a saved state of the model."""
        model: Any = self.model
        device = next(model.parameters()).device
        self.state = map_tensors(from_plain(carried, model.start()), lambda tensor: tensor.to(device))
