"""Sizes and parts of a Transformer, as a section of a recipe."""

from dataclasses import replace
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.errors import BadRecipe
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit, get_key_limit
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

    @property
    def length_limits(self) -> LengthLimits:
        """The longest source and target."""
        table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
        encoder, decoder, cross = (
            get_key_limit(getattr(self, name), f"model.{name}") for name in ("encoder", "decoder", "cross")
        )
        return LengthLimits(find_smallest_limit(table, encoder, cross), find_smallest_limit(table, decoder))

    def complete_spec(self, place: Place) -> AttentionSpec:
        """Complete the spec of an attention with the width, and where it sets none the heads, of this model.

        Args:
            place: "encoder", "decoder" or "cross".

        Returns:
            The spec.
        """
        spec: AttentionSpec = getattr(self, place)
        return replace(spec, d_model=self.width, heads=spec.heads or self.heads)

    @model_validator(mode="after")
    def _fits(self) -> "TransformerConfig":
        for name in ("encoder", "decoder", "cross"):
            spec: AttentionSpec = getattr(self, name)
            if spec.d_model is not None or spec.d_memory is not None:
                raise BadRecipe(
                    f"{name}: d_model and d_memory follow from width: leave them out and set width"
                )
            if spec.causal != (name == "decoder"):
                raise BadRecipe(f"{name}: causal must be {name == 'decoder'} there. Leave it out")
            self.complete_spec(name)
        return self
