"""Sizes and parts of captioners, as a section of a recipe."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from qkv.errors import BadRecipe
from qkv.model.captioner_encoder import PictureEncoderConfig, find_cell_limit, get_annotation_width
from qkv.model.layer_attention import (
    check_specs_of_decoder,
    complete_spec_of_layer,
    find_key_limit,
    list_specs,
)
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit, get_key_limit
from qkv.model.seq2seq_config import check_decoder_attention, complete_decoder_spec
from qkv.model.spec_fields import CausalSpecField, OptionalSpecField, SpecField
from qkv.model.vision import CNNConfig
from qkv.score import Additive
from qkv.spec import AttentionSpec
from qkv.strict import Strict


class RecurrentCaptionerConfig(Strict):
    """A captioner with a recurrent decoder.  Xu et al. 2015 (Show, Attend and Tell).

    Args:
        kind: the value that selects this model.
        encoder: what makes annotation vectors of a picture: kind cnn, patches or grid.
        attention: the attention to the grid of annotation vectors; null: the mean vector is the context of
            every word.  The model sets its widths; see `RNNConfig` about projections.
        cell: lstm or gru.
        embedding: width of word vectors, and of the deep output.
        hidden: width of the state.
        dropout: rate of dropout on word vectors and on the deep output.
        tie: whether the output layer shares its weight with the word vectors.
    """

    kind: Literal["rnn"] = "rnn"
    encoder: PictureEncoderConfig = CNNConfig()
    attention: OptionalSpecField = AttentionSpec(score=Additive())
    cell: Literal["gru", "lstm"] = "lstm"
    embedding: PositiveInt = 128
    hidden: PositiveInt = 256
    dropout: float = Field(default=0.3, ge=0, lt=1)
    tie: bool = False

    @property
    def length_limits(self) -> LengthLimits:
        """The largest number of cells of a grid; a caption has no limit."""
        attention = get_key_limit(self.attention, "model.attention")
        return LengthLimits(source=find_smallest_limit(find_cell_limit(self.encoder), attention))

    def complete_spec(self) -> AttentionSpec | None:
        """The attention for queries [.., hidden] and annotations; None without attention."""
        if self.attention is None:
            return None
        return complete_decoder_spec(self.attention, self.hidden, get_annotation_width(self.encoder))

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "RecurrentCaptionerConfig":
        if self.attention is not None:
            check_decoder_attention(self.attention)
            _check_scope(self.attention, "attention")
        self.complete_spec()
        return self


class TransformerCaptionerConfig(Strict):
    """A captioner with a Transformer decoder.

    Args:
        kind: the value that selects this model.
        encoder: what makes annotation vectors of a picture: kind cnn, patches or grid.
        layers: number of decoder layers.
        width: M, the width of the residual stream.
        heads: heads of every attention of the decoder whose spec sets none.
        feedforward: width of the hidden layer of the feed-forward networks.
        dropout: rate of dropout on embeddings, sublayers and hidden units.
        norm: pre or post: whether normalisation comes before or after a sublayer.
        positions: sinusoidal or learned: the positions of words.
        max_length: number of learned positions.
        tie: whether the output layer shares its weight with the word vectors.
        decoder: the causal self-attention.
        cross: the attention to the grid of annotation vectors.
        decoder_by_layer: layers with a causal self-attention of their own, by their number from 0.
        cross_by_layer: layers with an attention to the grid of their own.
    """

    kind: Literal["transformer"] = "transformer"
    encoder: PictureEncoderConfig = CNNConfig()
    layers: PositiveInt = Field(default=2, le=1000)
    width: PositiveInt = 128
    heads: PositiveInt = 4
    feedforward: PositiveInt = 256
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: PositiveInt = 512
    tie: bool = True
    decoder: CausalSpecField = AttentionSpec(causal=True)
    cross: SpecField = AttentionSpec()
    decoder_by_layer: dict[NonNegativeInt, CausalSpecField] = Field(default={})
    cross_by_layer: dict[NonNegativeInt, SpecField] = Field(default={})

    @property
    def length_limits(self) -> LengthLimits:
        """The largest number of cells of a grid, and the longest caption."""
        table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
        cells = find_smallest_limit(find_cell_limit(self.encoder), find_key_limit(self, "cross"))
        return LengthLimits(cells, find_smallest_limit(table, find_key_limit(self, "decoder")))

    def complete_spec(self, place: Literal["decoder", "cross"], layer: int | None = None) -> AttentionSpec:
        """The spec of an attention with the widths and, where it sets none, the heads of this model.

        Args:
            place: which attention.
            layer: the number of the layer, from 0; None is for layers without an attention of their own.
        """
        spec = complete_spec_of_layer(self, layer, place)
        return replace(spec, d_memory=get_annotation_width(self.encoder)) if place == "cross" else spec

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "TransformerCaptionerConfig":
        for place in ("decoder", "cross"):
            check_specs_of_decoder(self, self.layers, place)
            for key, spec in list_specs(self, place).items():
                _check_scope(spec, key)
        return self


CaptionerConfig = Annotated[
    RecurrentCaptionerConfig | TransformerCaptionerConfig, Field(discriminator="kind")
]


def _check_scope(spec: AttentionSpec, key: str) -> None:
    if spec.scope.grid is not None:
        raise BadRecipe(
            f"{key}: scope {spec.scope.name!r} is for queries that are cells of a grid, and these are words: "
            "use scope global"
        )
