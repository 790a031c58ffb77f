"""The objective of captioning: cross-entropy of the caption given the picture, and attention's terms."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from qkv.errors import BadData, BadRecipe
from qkv.shapes import Attended
from qkv.train.objective.attention import WeightedTerms
from qkv.train.objective.conditional import ConditionalObjective, EncoderMasks
from qkv.train.objective.terms import AttentionTerms, sum_supervision_loss


class CaptioningTerms(AttentionTerms):
    """The factor of each term beside the cross-entropy.

    With `coverage`, the weights of a caption of T words have the sum T, so that with fewer words than cells
    the term pushes them apart: at best every cell gets T / cells.

    Args:
        supervise: factor of the cross-entropy between the weights of a word that names an object and the
            uniform distribution over the cells of that object's box, where the data have boxes.  Liu et al.
            2017.
    """

    supervise: float = Field(default=0.0, ge=0)


NO_TERMS = CaptioningTerms()


class Captioning(ConditionalObjective):
    """Label-smoothed cross-entropy of the caption given the picture, by teacher forcing, and attention's
    terms.

    A batch has pictures (or grids), target [B,T+1] and target_keep [B,T+1]; the targets are BOS ... EOS PAD.
    With `supervise` it also has attention_targets [B,T,L]: for every word after BOS the distribution over the
    L cells that its weights should equal, or zeros.  See `ConditionalObjective` about the calls of the model.

    Args:
        model: the captioner to train.
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
        attention_terms: the factors of the attention's terms.

    Raises:
        BadRecipe: a term has a factor, but the model has no attention, or one that samples is supervised.
    """

    def __init__(
        self, model: nn.Module, smoothing: float, attention_terms: CaptioningTerms = NO_TERMS
    ) -> None:
        super().__init__(model, smoothing, attention_terms)
        self.factor = attention_terms.supervise
        self.needs_weights = self.needs_weights or self.factor > 0
        self._check_supervision()

    def read_source(self, batch: Any) -> tuple[Tensor, ...]:
        """The pictures."""
        return (batch.pictures,)

    def find_encoder_masks(self, batch: Any, attended: Attended) -> EncoderMasks:
        """Every cell is real, as queries and as keys."""
        assert attended.weights is not None
        rows, _, queries, keys = attended.weights.shape
        make_mask = lambda count: torch.ones(rows, count, dtype=torch.bool, device=attended.out.device)  # noqa: E731
        return EncoderMasks(make_mask(queries), make_mask(keys))

    def sum_terms_of_batch(
        self, batch: Any, attended: Mapping[str, Attended], log_likelihood: Float[Tensor, "B T"]
    ) -> WeightedTerms:
        """What the attentions add to the loss, with the supervision.

        Args:
            batch: what `forward` got.
            attended: name -> what that attention returned; at least one.
            log_likelihood: log p(y_t) of every output, 0 where it is not real.

        Raises:
            BadData: there are no attention_targets in the batch, or they fit another grid.
        """
        total, metrics = super().sum_terms_of_batch(batch, attended, log_likelihood)
        if self.factor == 0:
            return WeightedTerms(total, metrics)
        supervision = self._compute_supervision(batch, attended)
        return WeightedTerms(
            total + self.factor * supervision, {**metrics, "supervision": supervision.detach()}
        )

    def _compute_supervision(self, batch: Any, attended: Mapping[str, Attended]) -> Float[Tensor, ""]:
        """The supervision loss, averaged over the attentions to the grid."""
        model: Any = self.model
        places, targets, losses = model.attention_places(), batch.attention_targets, []
        for name, returned in attended.items():
            weights = returned.weights
            if places[name] != "cross" or weights is None:
                continue
            expected = [weights.shape[0], *weights.shape[2:]]
            if targets is None or list(targets.shape) != expected:
                shape = None if targets is None else list(targets.shape)
                raise BadData(
                    f"objective.supervise needs attention_targets of the shape {expected} (batch, words, "
                    f"cells), got {shape}: make them for this grid, or set objective.supervise to 0"
                )
            losses.append(sum_supervision_loss(weights, targets, batch.target_keep[:, 1:]))
        return torch.stack(losses).mean()

    def _check_supervision(self) -> None:
        model: Any = self.model
        places, layers = model.attention_places(), model.attention_layers()
        to_grid = [layer for name, layer in layers.items() if places[name] == "cross"]
        if self.factor > 0 and not to_grid:
            raise BadRecipe(
                "objective.supervise needs attention to the grid, and the model has none: set it to 0, or "
                "give the model an attention"
            )
        if self.factor > 0 and any(layer.spec.select.samples for layer in to_grid):
            raise BadRecipe(
                "objective.supervise cannot supervise weights that are sampled: leave it out, or choose "
                "another select than hard"
            )
