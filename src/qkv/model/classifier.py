"""Classifiers of texts and of pairs of texts: an encoder, a pooling and an output layer."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.dropout import dropout
from qkv.model.encoder import Encoder, EncoderConfig
from qkv.model.length_limits import LengthLimits
from qkv.model.pooling import PoolKind, make_pool
from qkv.shapes import Attended

# the texts of a pair differ in their lengths
Texts = list[Int[Tensor, "B _"]]
RealTexts = list[Bool[Tensor, "B _"]]


class ClassifierConfig(EncoderConfig):
    """An encoder with a pooling.

    Args:
        kind: the value that selects this model.
        pool: mean, first or attention: how the states of all tokens become one vector.
    """

    kind: Literal["classifier"] = "classifier"
    pool: PoolKind = "mean"


class Classified(NamedTuple):
    """Scores of the classes, and what every attention did.

    Args:
        scores: [B,C].
        attended: for every text, name -> Attended; "layer.i" and, where the pooling is attention, "pool".
    """

    scores: Float[Tensor, "B C"]
    attended: list[dict[str, Attended]]


class Classifier(nn.Module):
    """Encoder, pooling and output layer.

    Args:
        config: the sizes, the attention and the pooling.
        vocab: V, the number of tokens.
        classes: C, the number of classes.
        texts: how many texts are compared: 1, or 2 for pairs, which one encoder reads one after the other.
            Their vectors a and b are joined as [a; b; a ∘ b; |a - b|].

    Example:
        >>> import torch
        >>> model = Classifier(ClassifierConfig(layers=1, width=16), vocab=50, classes=2)
        >>> tokens = torch.tensor([[3, 1, 4]])
        >>> model([tokens], [torch.ones_like(tokens, dtype=torch.bool)]).shape
        torch.Size([1, 2])
    """

    def __init__(self, config: ClassifierConfig, vocab: int, classes: int, texts: int = 1) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.pool = Encoder(config, vocab), make_pool(config.pool, config.width)
        self.output = make_output_layer(config.width, classes, texts)

    def forward(self, tokens: Texts, keep: RealTexts) -> Float[Tensor, "B C"]:
        """Scores of the classes, of texts given as one array of tokens each."""
        vectors = [self.pool(self.encoder(*text), text[1]).out for text in zip(tokens, keep, strict=True)]
        return self._score(vectors)

    def forward_with_weights(self, tokens: Texts, keep: RealTexts) -> Classified:
        """`forward`, and what the attentions did."""
        vectors, attended = [], []
        for text, real in zip(tokens, keep, strict=True):
            hidden, layers = self.encoder.forward_with_weights(text, real)
            pooled = self.pool(hidden, real)
            vectors.append(pooled.out)
            attended.append(layers if pooled.weights is None else {**layers, "pool": pooled})
        return Classified(self._score(vectors), attended)

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        pool = {"pool": self.pool.attention} if self.config.pool == "attention" else {}
        return {**self.encoder.attention_layers(), **pool}  # pyright: ignore[reportReturnType]

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read."""
        return self.encoder.length_limits

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder; see `Objective.layer_groups`."""
        return self.encoder.layer_groups()

    def _score(self, vectors: list[Float[Tensor, "B M"]]) -> Float[Tensor, "B C"]:
        return self.output(dropout(combine_vectors(vectors), self.config.dropout, self.training))


def make_output_layer(width: int, classes: int, texts: int) -> nn.Linear:
    """The layer from what `combine_vectors` returns to the scores of the classes; its biases are 0."""
    output = nn.Linear(width * (1 if texts == 1 else 4), classes)
    nn.init.zeros_(output.bias)
    return output


def combine_vectors(vectors: list[Float[Tensor, "B M"]]) -> Float[Tensor, "B N"]:
    """The vector of a text, or [a; b; a ∘ b; |a - b|] of a pair."""
    if len(vectors) == 1:
        return vectors[0]
    a, b = vectors
    return torch.cat([a, b, a * b, (a - b).abs()], -1)
