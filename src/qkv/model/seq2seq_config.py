"""Sizes and parts of a recurrent translation model, as a section of a recipe."""

from dataclasses import replace
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from qkv.errors import BadRecipe
from qkv.model.length_limits import LengthLimits, get_key_limit
from qkv.model.spec_fields import OptionalSpecField
from qkv.score import Additive
from qkv.spec import AttentionSpec
from qkv.strict import Strict


class RNNConfig(Strict):
    """Sizes and parts of a recurrent translation model.

    Args:
        kind: the value that selects this model.
        attention: The attention to the source; None is the encoder–decoder of 2014 with one fixed context.
            The model sets its widths.  A score for two widths (additive, general, location) has no
            projections, nor have dot and cosine where state and annotations have one width; everything else
            (scaled dot product, feature maps, several heads) gets projections to one width.
        decoder: "bahdanau", whose query is the previous state, or "luong", whose query is the new state.
        input_feeding: Whether Luong's decoder also reads its last output.
        cell: "gru" or "lstm", of encoder and decoder.
        embedding: Width of word vectors, and of Bahdanau's read-out.
        hidden: Width of the decoder's state and of each direction of the encoder.
        layers: Layers of the encoder.
        bidirectional: Whether the encoder reads in both directions; False gives annotations of the width of
            the state.
        dropout: Probability of dropout of word vectors, between encoder layers and of the read-out.
        tie: Whether the output layer shares its weight with the target's word vectors.
    """

    kind: Literal["rnn"] = "rnn"
    attention: OptionalSpecField = AttentionSpec(score=Additive())
    decoder: Literal["bahdanau", "luong"] = "bahdanau"
    input_feeding: bool = False
    cell: Literal["gru", "lstm"] = "gru"
    embedding: PositiveInt = 256
    hidden: PositiveInt = 256
    layers: PositiveInt = Field(default=1, le=1000)
    bidirectional: bool = True
    dropout: float = Field(default=0.3, ge=0, lt=1)
    tie: bool = False

    @property
    def annotation(self) -> int:
        """The width of an annotation of the source."""
        return self.hidden * (2 if self.bidirectional else 1)

    @property
    def length_limits(self) -> LengthLimits:
        """The longest source; a target has no limit."""
        return LengthLimits(source=get_key_limit(self.attention, "model.attention"))

    def complete_spec(self) -> AttentionSpec | None:
        """Complete the spec of the attention with the widths of this model.

        Returns:
            The spec for queries [.., hidden] and a memory [.., annotation]; None without attention.
        """
        return (
            None
            if self.attention is None
            else complete_decoder_spec(self.attention, self.hidden, self.annotation)
        )

    @model_validator(mode="after")
    def _fits(self) -> "RNNConfig":
        if self.input_feeding and self.decoder != "luong":
            raise BadRecipe("input_feeding needs decoder: luong. Bahdanau's decoder reads its context anyway")
        if self.tie and self.decoder == "luong" and self.embedding != self.hidden:
            raise BadRecipe(
                f"tie needs an output as wide as a word vector: with decoder: luong set embedding and hidden "
                f"to one number, got {self.embedding} and {self.hidden}"
            )
        if self.attention is None:
            if self.decoder == "luong":
                raise BadRecipe("decoder: luong needs an attention: set one, such as {score: general}")
            return self
        check_decoder_attention(self.attention)
        self.complete_spec()
        return self


def complete_decoder_spec(spec: AttentionSpec, hidden: int, annotation: int) -> AttentionSpec:
    """Complete the spec of a recurrent decoder's attention with its widths.

    Args:
        spec: The attention of the recipe.
        hidden: The width of the state, which is the query.
        annotation: The width of the annotations.

    Returns:
        The spec; without projections where the score takes two widths, or takes equal ones as they are.

    Raises:
        BadRecipe: The recipe forbids projections, but the score needs them.
    """
    score = spec.score
    unprojected = score is not None and (
        score.two_widths or (score.unprojected_by_default and hidden == annotation)
    )
    unprojected = unprojected and spec.heads in (None, 1) and spec.kv_heads in (None, 1)
    if not spec.project and not unprojected:
        raise BadRecipe(
            f"attention.project=False needs a score for two widths, such as additive, got "
            f"{spec.score!r}: decoder state and annotations differ in width. Leave project out"
        )
    return replace(spec, d_model=hidden, d_memory=annotation, project=not unprojected)


def check_decoder_attention(spec: AttentionSpec) -> None:
    """Check that an attention of a recipe can be that of a recurrent decoder.

    Args:
        spec: The attention.

    Raises:
        BadRecipe: It names a width, or is causal.
    """
    if spec.d_model is not None or spec.d_memory is not None:
        raise BadRecipe("d_model and d_memory follow from hidden: leave them out and set hidden")
    if spec.causal:
        raise BadRecipe("causal has no meaning here: the whole source is known. Leave it out")
