"""The config of a decoder language model."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from qkv.errors import BadRecipe
from qkv.model.feedforward import Activation, Normalisation
from qkv.model.layer_attention import (
    check_layer_numbers,
    complete_spec_of_layer,
    find_key_limit,
    list_specs,
)
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit
from qkv.model.mixers import AttentionMixer, ConvolutionMixer, RecurrentMixer, SequenceMixer
from qkv.model.spec_fields import CausalSpecField
from qkv.spec import AttentionSpec
from qkv.strict import Strict


class LanguageModelConfig(Strict):
    """A stack of causal sequence mixers, each followed by a feed-forward network.

    Args:
        kind: the value that selects this model.
        mixer: what lets positions exchange information: attention, gru, lstm or convolution.
        layers: number of layers.
        width: M, the width of the residual stream.
        heads: heads of an attention that names none.
        feedforward: inner width of the feed-forward networks; 0 leaves them out.
        activation: of the feed-forward networks: relu, gelu or swiglu.
        norm: layer (LayerNorm) or rms (RMSNorm), before every sublayer.
        dropout: rate of dropout on embeddings, sublayers and hidden units.
        positions: sinusoidal, learned or none; null is learned for attention, none for the other mixers.
        max_length: size of the table of learned positions.
        attention: mixer attention: its parts; it is causal.
        attention_by_layer: mixer attention: layers with an attention of their own, by their number from 0.
        kernel_size: mixer convolution: positions that one output reads.
        dilation: mixer convolution: layer i reads positions dilation^i apart; 1 reads neighbours.
        separable: mixer convolution: one filter per channel; false has one per pair of channels.
        convolution_layers: mixer attention: so many of the first layers are convolutions instead.
        tied: the output layer shares the weight of the embedding.
        clusters: the ids at which clusters of rare words begin, such as [1000, 9000] (tokens.kind: word); a
            cluster is scored only where the next word is in it, so that large vocabularies train faster.
    """

    kind: Literal["language"] = "language"
    mixer: Literal["attention", "gru", "lstm", "convolution"] = "attention"
    layers: PositiveInt = Field(default=4, le=1000)
    width: PositiveInt = 128
    heads: PositiveInt = 4
    feedforward: NonNegativeInt = 512
    activation: Activation = "gelu"
    norm: Normalisation = "layer"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["sinusoidal", "learned", "none"] | None = None
    max_length: PositiveInt = 512
    attention: CausalSpecField = AttentionSpec(causal=True)
    attention_by_layer: dict[NonNegativeInt, CausalSpecField] = Field(default={})
    kernel_size: PositiveInt = 7
    dilation: PositiveInt = 2
    separable: bool = True
    convolution_layers: NonNegativeInt = 0
    tied: bool = True
    clusters: tuple[PositiveInt, ...] = ()

    @property
    def position_kind(self) -> Literal["sinusoidal", "learned", "none"]:
        """The positions of this model, where the recipe leaves them to the mixer too."""
        return self.positions or ("learned" if self.mixer == "attention" else "none")

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read (as a target): None where there is no limit."""
        table = LengthLimit(self.max_length, "model.max_length") if self.position_kind == "learned" else None
        keys = find_key_limit(self) if self.mixer == "attention" else None
        return LengthLimits(target=find_smallest_limit(table, keys))

    @property
    def has_bounded_state(self) -> bool:
        """Whether what the model keeps of a text has a fixed size, however long the text is."""
        return self.mixer != "attention" or all(map(_has_bounded_state, list_specs(self).values()))

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "LanguageModelConfig":
        for key, spec in list_specs(self).items():
            if spec.d_model is not None or spec.d_memory is not None:
                raise BadRecipe(f"{key}: d_model and d_memory follow from width: leave them out")
            if not spec.causal:
                raise BadRecipe(f"{key}: causal must be True in a language model. Leave it out")
        check_layer_numbers(self, filter(self.has_attention, range(self.layers)))
        if self.mixer == "attention":
            for layer in (None, *self.attention_by_layer):
                complete_spec_of_layer(self, layer)
        if self.convolution_layers and (self.mixer != "attention" or self.convolution_layers >= self.layers):
            raise BadRecipe(
                f"convolution_layers={self.convolution_layers} needs mixer: attention and more layers than "
                f"that, got mixer: {self.mixer} and layers={self.layers}: lower it, or leave it out"
            )
        if list(self.clusters) != sorted(set(self.clusters)):
            raise BadRecipe(f"clusters begin at ascending ids, got {list(self.clusters)}: sort them")
        return self

    def has_attention(self, layer: int) -> bool:
        """Whether the mixer of one layer, counted from 0, is attention."""
        return self.mixer == "attention" and layer >= self.convolution_layers

    def make_mixer(self, layer: int) -> SequenceMixer:
        """The mixer of one layer, counted from 0."""
        if self.has_attention(layer):
            return AttentionMixer(complete_spec_of_layer(self, layer))
        if self.mixer in ("convolution", "attention"):
            return ConvolutionMixer(self.width, self.kernel_size, self.dilation**layer, self.separable)
        return RecurrentMixer(self.mixer, self.width)


def _has_bounded_state(spec: AttentionSpec) -> bool:
    return not spec.kernel.forms_weights or spec.scope.reach is not None
