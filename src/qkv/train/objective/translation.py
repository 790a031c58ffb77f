"""The objective of translation: cross-entropy of the target given the source, and attention's terms."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from qkv.shapes import Attended
from qkv.train.objective.conditional import ConditionalObjective, EncoderMasks


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


class Translation(ConditionalObjective):
    """Label-smoothed cross-entropy of the target given the source, by teacher forcing, and attention's terms.

    A batch has source [B,S], source_keep [B,S], target [B,T+1] and target_keep [B,T+1]; the targets are
    BOS ... EOS PAD.  See `ConditionalObjective` about the calls of the model.

    Args:
        model: the model to train, a `TranslationModel`.
        smoothing: label smoothing, from 0 to 1: this much is spread over all classes.
        attention_terms: the factors of the attention's terms.

    Raises:
        BadRecipe: a term has a factor, but the model has no attention that it applies to.
    """

    def read_source(self, batch: Any) -> tuple[Tensor, ...]:
        """The tokens of the source and their mask."""
        return batch.source, batch.source_keep

    def find_encoder_masks(self, batch: Any, attended: Attended) -> EncoderMasks:
        """The mask of the source, for queries and keys."""
        return EncoderMasks(batch.source_keep, batch.source_keep)
