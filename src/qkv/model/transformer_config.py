"""Sizes and parts of a Transformer, as a section of a recipe."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from qkv.model.layer_attention import check_specs_of_decoder, complete_spec_of_layer, find_key_limit
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit
from qkv.model.spec_fields import CausalSpecField, Place, SpecField
from qkv.spec import AttentionSpec
from qkv.strict import Strict


class TransformerConfig(Strict):
    """Sizes and parts of a Transformer encoder–decoder.

    Args:
        kind: the value that selects this model.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        width: M, the width of the residual stream.
        heads: Heads of every attention whose spec sets none.
        feedforward: Width of the hidden layer of the feed-forward networks.
        dropout: Probability of dropout of embeddings, sublayers and hidden units.
        norm: "pre" or "post": whether normalisation comes before or after a sublayer.
        positions: "sinusoidal" or "learned".
        max_length: Number of learned positions.
        embeddings: Which matrices are one: "shared" source, target and output; "target" target and output;
            "separate" none.
        encoder: The encoder's self-attention.
        decoder: The decoder's causal self-attention.
        cross: The decoder's attention to the source.
        encoder_by_layer: Layers of the encoder with a self-attention of their own, by their number from 0.
        decoder_by_layer: Layers of the decoder with a self-attention of their own.
        cross_by_layer: Layers of the decoder with an attention to the source of their own.
    """

    kind: Literal["transformer"] = "transformer"
    encoder_layers: PositiveInt = Field(default=4, le=1000)
    decoder_layers: PositiveInt = Field(default=4, le=1000)
    width: PositiveInt = 128
    heads: PositiveInt = 4
    feedforward: PositiveInt = 256
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: PositiveInt = 512
    embeddings: Literal["shared", "target", "separate"] = "shared"
    encoder: SpecField = AttentionSpec()
    decoder: CausalSpecField = AttentionSpec(causal=True)
    cross: SpecField = AttentionSpec()
    encoder_by_layer: dict[NonNegativeInt, SpecField] = Field(default={})
    decoder_by_layer: dict[NonNegativeInt, CausalSpecField] = Field(default={})
    cross_by_layer: dict[NonNegativeInt, SpecField] = Field(default={})

    @property
    def length_limits(self) -> LengthLimits:
        """The longest source and target."""
        table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
        encoder, decoder, cross = (find_key_limit(self, place) for place in ("encoder", "decoder", "cross"))
        return LengthLimits(find_smallest_limit(table, encoder, cross), find_smallest_limit(table, decoder))

    def complete_spec(self, place: Place, layer: int | None = None) -> AttentionSpec:
        """Complete the spec of an attention with the width, and where it sets none the heads, of this model.

        Args:
            place: "encoder", "decoder" or "cross".
            layer: The number of the layer, from 0; None is for layers without an attention of their own.

        Returns:
            The spec.
        """
        return complete_spec_of_layer(self, layer, place)

    @model_validator(mode="after")
    def _fits(self) -> "TransformerConfig":
        check_specs_of_decoder(self, self.encoder_layers, "encoder")
        check_specs_of_decoder(self, self.decoder_layers, "decoder")
        check_specs_of_decoder(self, self.decoder_layers, "cross")
        return self
