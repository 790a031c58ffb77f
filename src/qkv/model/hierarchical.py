"""Classifiers that read a document in two levels: words make sentences, sentences make the document."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv import masks
from qkv.errors import BadMask, BadRecipe
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.classifier import Classified, combine_vectors, make_output_layer
from qkv.model.dropout import dropout
from qkv.model.encoder import (
    EncoderConfig,
    EncoderLayer,
    Hidden,
    Real,
    apply_layers,
    check_encoder_attention,
    make_positions,
)
from qkv.model.feedforward import make_norm
from qkv.model.layer_attention import complete_spec_of_layer
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit, get_key_limit
from qkv.model.pooling import AttentionPool
from qkv.model.spec_fields import OptionalSpecField
from qkv.shapes import Attended
from qkv.symbols import PAD
from qkv.tracing import require

Words = Int[Tensor, "B S N"]
RealWords = Bool[Tensor, "B S N"]
# the documents of a pair differ in their lengths
Documents = list[Int[Tensor, "B _ _"]]
RealDocuments = list[Bool[Tensor, "B _ _"]]


class HierarchicalConfig(EncoderConfig):
    """Two levels, each with an encoder and a pooling by attention.  Yang et al. 2016 (NAACL), section 2.2.

    Args:
        kind: the value that selects this model.
        encoder: gru (bidirectional, as in the paper) or attention (self-attention layers), at both levels.
        layers: number of layers of the encoder of each level.
        attention: the self-attention over the words of a sentence, where the encoder is attention.
        sentence_attention: the self-attention over the sentences of a document; null takes that over words.
        max_sentences: sentences that are read of a document; what follows them is cut, and counted.
        max_sentence_length: tokens of a sentence; a longer one is split into several, and counted.
        max_length: size of each table of learned positions, that of words and that of sentences.
    """

    kind: Literal["hierarchical"] = "hierarchical"
    encoder: Literal["gru", "attention"] = "gru"
    layers: PositiveInt = Field(default=1, le=1000)
    sentence_attention: OptionalSpecField = None
    max_sentences: PositiveInt = 50
    max_sentence_length: PositiveInt = 50

    @property
    def sentence_level(self) -> EncoderConfig:
        """The config of the encoder of sentences."""
        return self.model_copy(update={"attention": self.sentence_attention or self.attention})

    @property
    def length_limits(self) -> LengthLimits:
        """No limit: what a document has beyond the two bounds is cut."""
        return LengthLimits()

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "HierarchicalConfig":
        if self.attention_by_layer:
            raise BadRecipe(
                "attention_by_layer: a hierarchical classifier has one attention for each level: leave it "
                "out, and set attention and sentence_attention"
            )
        if self.encoder == "gru":
            if self.width % 2:
                raise BadRecipe(f"width={self.width} must be even: the GRU of each direction has half of it")
            return self
        for config, bound, key in (
            (self, "max_sentence_length", "attention"),
            (self.sentence_level, "max_sentences", "sentence_attention"),
        ):
            check_encoder_attention(config.attention, key)
            _ = complete_spec_of_layer(config)
            table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
            limit = find_smallest_limit(table, get_key_limit(config.attention, f"model.{key}"))
            if limit is not None and getattr(self, bound) > limit.positions:
                raise BadRecipe(
                    f"model.{bound}={getattr(self, bound)} is more than {limit.key}={limit.positions} holds: "
                    f"raise {limit.key} or lower model.{bound}"
                )
        return self


class GRUEncoder(nn.Module):
    """A bidirectional GRU: h_t = [h_fwd_t; h_bwd_t], each of width M/2.  Yang et al. 2016, section 2.2.

    Args:
        config: the number of layers, the width and the dropout.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, rate = config.width, config.dropout if config.layers > 1 else 0.0
        options = {"batch_first": True, "bidirectional": True, "dropout": rate}
        self.dropout, self.gru = config.dropout, nn.GRU(width, width // 2, config.layers, **options)

    def forward(self, x: Hidden, keep: Real, capture: bool = False) -> tuple[Hidden, dict[str, Attended]]:
        """States [B,N,M] of vectors that are padded on the right, and no attention.

        Raises:
            BadMask: there is padding before a real position.
        """
        problem = "keep is True behind padding: a recurrent encoder needs all padding on the right"
        require(keep[:, :-1] | ~keep[:, 1:], BadMask, problem)
        x = dropout(masks.zero_keys(x, keep), self.dropout, self.training)
        lengths = masks.count_real_positions(keep).clamp(min=1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.gru(packed)
        return pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0], {}


class AttentionEncoder(nn.Module):
    """Positions, self-attention layers and a normalisation over a sequence of vectors.

    Args:
        config: the sizes and the attention.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout, self.positions = config.dropout, make_positions(config)
        self.layers: Any = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.width)

    def forward(self, x: Hidden, keep: Real, capture: bool = False) -> tuple[Hidden, dict[str, Attended]]:
        """States [B,N,M], and, where `capture`, the attention of every layer: "layer.i" -> Attended."""
        x = dropout(self.positions(x, 0), self.dropout, self.training)
        x, attended = apply_layers(self.layers, x, keep, capture)
        return self.norm(x), attended


class Level(nn.Module):
    """An encoder over a sequence of vectors, and the pooling that makes one vector of the sequence.

    Args:
        config: the encoder's config.
        encoder: gru or attention.
    """

    def __init__(self, config: EncoderConfig, encoder: str) -> None:
        super().__init__()
        self.encoder = GRUEncoder(config) if encoder == "gru" else AttentionEncoder(config)
        self.pool = AttentionPool(config.width)

    def forward(self, x: Hidden, keep: Real, capture: bool = False) -> tuple[Tensor, dict[str, Attended]]:
        """Vectors [B,M], 0 for an empty sequence, and, where `capture`, "layer.i" and "pool" -> Attended."""
        hidden, attended = self.encoder(x, keep, capture)
        pooled = self.pool(hidden, keep)
        return pooled.out, {**attended, "pool": pooled} if capture else {}

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        layers = {
            f"layer.{i}": layer.attention for i, layer in enumerate(getattr(self.encoder, "layers", ()))
        }
        return {**layers, "pool": self.pool.attention}


class HierarchicalClassifier(nn.Module):
    """Words make sentences, sentences make the document, by two levels of encoder and attention.

        h_it = encoder(words of sentence i);   s_i = Σ_t a_it h_it;   h_i = encoder(s);   v = Σ_i a_i h_i

    Yang et al. 2016 (NAACL), section 2.2; the weights a are those of `AttentionPool`, with one learned query
    per level.

    Args:
        config: the sizes, the encoders and the bounds of a document.
        vocab: V, the number of tokens.
        classes: C, the number of classes.
        texts: how many texts are compared: 1, or 2 for pairs; see `Classifier`.

    Example:
        >>> import torch
        >>> model = HierarchicalClassifier(HierarchicalConfig(width=16), vocab=50, classes=2)
        >>> document = torch.tensor([[[3, 1, 4], [1, 5, 9]]])  # two sentences of three words
        >>> model([document], [torch.ones_like(document, dtype=torch.bool)]).shape
        torch.Size([1, 2])
    """

    def __init__(self, config: HierarchicalConfig, vocab: int, classes: int, texts: int = 1) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab, config.width)
        self.words, self.sentences = (Level(c, config.encoder) for c in (config, config.sentence_level))
        self.output = make_output_layer(config.width, classes, texts)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Documents, keep: RealDocuments) -> Float[Tensor, "B C"]:
        """Scores of the classes, of texts as [B,S,N] each: S sentences of N tokens, padded on the right."""
        return self._score([self._read(*text, capture=False)[0] for text in zip(tokens, keep, strict=True)])

    def forward_with_weights(self, tokens: Documents, keep: RealDocuments) -> Classified:
        """`forward`, and what the attentions did.

        The names are "words.pool" and "words.layer.i" for weights within the sentences of all documents, one
        after the other, and "sentences.pool" and "sentences.layer.i".
        """
        read = [self._read(*text, capture=True) for text in zip(tokens, keep, strict=True)]
        scores = self._score([vector for vector, _ in read])
        return Classified(scores, [attended for _, attended in read])

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        levels = {"words": self.words, "sentences": self.sentences}
        return {
            f"{name}.{layer}": attention
            for name, level in levels.items()
            for layer, attention in level.attention_layers().items()
        }

    def layer_groups(self) -> list[list[nn.Module]]:
        """The embeddings, then both levels; see `Objective.layer_groups`."""
        return [[self.embedding], [self.words], [self.sentences]]

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read."""
        return self.config.length_limits

    def _read(self, tokens: Words, keep: RealWords, capture: bool) -> tuple[Tensor, dict[str, Attended]]:
        """The vectors [B,M] of documents; one without a token has the vector 0."""
        is_sentence = keep.any(-1)
        # only sentences with tokens are encoded, and the first one of every document, so that there is one
        is_encoded = is_sentence | (torch.arange(keep.shape[1], device=keep.device) == 0)
        real = keep[is_encoded]
        words = self.embedding(tokens[is_encoded].masked_fill(~real, PAD)) * self.config.width**0.5
        encoded, word_weights = self.words(words, real, capture)
        vectors = encoded.new_zeros(*is_encoded.shape, encoded.shape[-1])
        vectors[is_encoded] = encoded
        vector, sentence_weights = self.sentences(vectors, is_sentence, capture)
        attended = {f"words.{name}": each for name, each in word_weights.items()}
        return vector, attended | {f"sentences.{name}": each for name, each in sentence_weights.items()}

    def _score(self, vectors: list[Float[Tensor, "B M"]]) -> Float[Tensor, "B C"]:
        return self.output(dropout(combine_vectors(vectors), self.config.dropout, self.training))
