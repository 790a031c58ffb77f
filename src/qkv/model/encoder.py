"""A bidirectional encoder: the body of masked language models and of classifiers."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from qkv import masks
from qkv.errors import BadRecipe
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.dropout import dropout
from qkv.model.feedforward import Activation, FeedForwardNet, Normalisation, make_norm
from qkv.model.layer_attention import (
    check_layer_numbers,
    complete_spec_of_layer,
    find_key_limit,
    list_specs,
)
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit
from qkv.model.positions import LearnedPositions, Sinusoids
from qkv.model.spec_fields import SpecField
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict
from qkv.symbols import PAD

Tokens = Int[Tensor, "B N"]
Real = Bool[Tensor, "B N"]
Hidden = Float[Tensor, "B N M"]


class EncoderConfig(Strict):
    """A stack of self-attention layers over the whole text, each followed by a feed-forward network.

    Args:
        kind: the value that selects this model.
        layers: number of layers.
        width: M, the width of the residual stream.
        heads: heads of an attention that names none.
        feedforward: inner width of the feed-forward networks.
        activation: of the feed-forward networks: relu, gelu or swiglu.
        norm: layer (LayerNorm) or rms (RMSNorm), before every sublayer.
        dropout: rate of dropout on embeddings, sublayers and hidden units.
        positions: sinusoidal or learned.
        max_length: size of the table of learned positions.
        attention: the self-attention of every layer.
        attention_by_layer: layers with a self-attention of their own, by their number from 0.
    """

    kind: Literal["encoder"] = "encoder"
    layers: PositiveInt = Field(default=4, le=1000)
    width: PositiveInt = 128
    heads: PositiveInt = 4
    feedforward: PositiveInt = 512
    activation: Activation = "gelu"
    norm: Normalisation = "layer"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: PositiveInt = 512
    attention: SpecField = AttentionSpec()
    attention_by_layer: dict[NonNegativeInt, SpecField] = Field(default={})

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read; None where there is no limit."""
        table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
        return LengthLimits(source=find_smallest_limit(table, find_key_limit(self)))

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "EncoderConfig":
        for key, spec in list_specs(self).items():
            check_encoder_attention(spec, key)
        check_layer_numbers(self, range(self.layers))
        for layer in (None, *self.attention_by_layer):
            complete_spec_of_layer(self, layer)
        return self


def check_encoder_attention(attention: AttentionSpec, key: str) -> None:
    """Check that an attention of a recipe can be the self-attention of an encoder.

    Raises:
        BadRecipe: it names a width, or is causal.
    """
    if attention.d_model is not None or attention.d_memory is not None:
        raise BadRecipe(f"{key}: d_model and d_memory follow from width: leave them out and set width")
    if attention.causal:
        raise BadRecipe(f"{key}: causal must be False in an encoder. Leave it out")


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        config: the encoder's config.
        layer: the number of this layer, from 0.
    """

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = make_norm(config.norm, config.width)
        self.attention = complete_spec_of_layer(config, layer).build()
        self.feedforward_norm = make_norm(config.norm, config.width)
        self.feedforward = FeedForwardNet(config.width, config.feedforward, config.activation, config.dropout)

    def forward(self, x: Hidden, keep: Real | None, capture: bool = False) -> tuple[Hidden, Attended]:
        """The output of the layer and its attention, with weights where `capture`; None keeps all tokens."""
        read = self.norm(x)
        attended = (
            self.attention.attend(read, keep=keep)
            if capture
            else Attended(self.attention(read, keep=keep), None)
        )
        x = x + dropout(attended.out, self.dropout, self.training)
        return x + dropout(self.feedforward(self.feedforward_norm(x)), self.dropout, self.training), attended


class Encoder(nn.Module):
    """Embedding, positions, layers and a final normalisation.

    Args:
        config: the sizes and the attention.
        vocab: V, the number of tokens.

    Example:
        >>> import torch
        >>> encoder = Encoder(EncoderConfig(layers=1, width=16), vocab=50)
        >>> tokens = torch.tensor([[3, 1, 4]])
        >>> encoder(tokens, torch.ones_like(tokens, dtype=torch.bool)).shape
        torch.Size([1, 3, 16])
    """

    def __init__(self, config: EncoderConfig, vocab: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab, config.width)
        self.positions = make_positions(config)
        self.layers: Any = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.width)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)

    def forward(self, tokens: Tokens, keep: Real) -> Hidden:
        """Hidden states [B,N,M] of the tokens; `keep` is True at real ones."""
        return self._encode(tokens, keep, capture=False)[0]

    def forward_with_weights(self, tokens: Tokens, keep: Real) -> tuple[Hidden, dict[str, Attended]]:
        """`forward`, and the attention of every layer: "layer.i" -> Attended."""
        return self._encode(tokens, keep, capture=True)

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights: "layer.i"."""
        return {f"layer.{i}": layer.attention for i, layer in enumerate(self.layers)}

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read."""
        return self.config.length_limits

    def layer_groups(self) -> list[list[nn.Module]]:
        """The embeddings, then the layers in their order; see `Objective.layer_groups`."""
        return [[self.embedding, self.positions], *([layer] for layer in self.layers)]

    def _encode(self, tokens: Tokens, keep: Real, capture: bool) -> tuple[Hidden, dict[str, Attended]]:
        x = self.embedding(tokens.masked_fill(~keep, PAD)) * self.config.width**0.5
        x = dropout(self.positions(x, 0), self.config.dropout, self.training)
        x, attended = apply_layers(self.layers, x, keep, capture)
        return self.norm(x), attended


def make_positions(config: EncoderConfig) -> nn.Module:
    """The encoding of positions that the config names."""
    if config.positions == "learned":
        return LearnedPositions(config.width, config.max_length)
    return Sinusoids(config.width)


def apply_layers(
    layers: Iterable[Any], x: Hidden, keep: Real | None, capture: bool
) -> tuple[Hidden, dict[str, Attended]]:
    """The states [B,N,M] after all layers, and, where `capture`, their attention: "layer.i" -> Attended.

    `keep` is True at real positions; None: all are.
    """
    if keep is not None:
        x = masks.zero_keys(x, keep)  # the residual stream carries padding past every layer
    attended: dict[str, Attended] = {}
    for i, layer in enumerate(layers):
        x, each = layer(x, keep, capture)
        if capture:
            attended[f"layer.{i}"] = each
    return x, attended


class MaskedLanguageModel(WeightTyingModule):
    """An encoder that guesses hidden tokens: p(token | all other tokens).  Devlin et al. 2019.

    Args:
        config: the encoder's config.
        vocab: V, the number of tokens, [MASK] included.
    """

    def __init__(self, config: EncoderConfig, vocab: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, vocab)
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = make_norm(config.norm, config.width)
        self.output = nn.Linear(config.width, vocab)
        nn.init.zeros_(self.output.bias)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the embedding."""
        self.output.weight = self.encoder.embedding.weight

    def forward(self, tokens: Tokens, keep: Real) -> Hidden:
        """Hidden states [B,N,M] before the output layer."""
        return self._transform(self.encoder(tokens, keep))

    def forward_with_weights(self, tokens: Tokens, keep: Real) -> tuple[Hidden, dict[str, Attended]]:
        """`forward`, and the attention of every layer."""
        hidden, attended = self.encoder.forward_with_weights(tokens, keep)
        return self._transform(hidden), attended

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        return self.encoder.attention_layers()

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read."""
        return self.encoder.length_limits

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder; see `Objective.layer_groups`."""
        return self.encoder.layer_groups()

    def _transform(self, hidden: Hidden) -> Hidden:
        return self.transform_norm(torch.nn.functional.gelu(self.transform(hidden)))
