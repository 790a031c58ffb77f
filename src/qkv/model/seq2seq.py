"""The recurrent encoder–decoder: with attention, Bahdanau's or Luong's, and without (see `decoders`)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PlainSerializer, PlainValidator, PositiveInt, model_validator
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.kernel.reset_parameters import reset_children
from qkv.layer import Attention
from qkv.model.length_limits import LengthLimits, get_key_limit
from qkv.model.recurrent_decoders import BahdanauDecoder, DecoderState, LuongDecoder, PlainDecoder
from qkv.model.recurrent_encoder import Encoder
from qkv.model.spec_fields import parse_spec
from qkv.model.stepper import Step
from qkv.model.weight_tying import tie_weights_after_loading
from qkv.score import Additive
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict


def _read_attention(written: Any) -> AttentionSpec | None:
    return None if written is None else parse_spec(written)


class RNNConfig(Strict):
    """A recurrent translator.

    attention: its parts; None is the encoder–decoder of 2014, which sees the source through one fixed vector.
        The model sets its widths.  A score for two widths (additive, general, location) compares state and
        annotations as they are, and so do dot and cosine where both have one width; everything else (scaled
        dot product, feature maps, several heads) gets projections to one width.
    decoder: bahdanau asks with its previous state, luong with its new one.  input_feeding: luong's decoder
        also reads what it made of its last context.
    cell: of encoder and decoder.  embedding: width of word vectors, and of bahdanau's read-out.
    hidden: width of the decoder's state and of each direction of the encoder.  layers: of the encoder.
    bidirectional: the encoder reads both ways; False gives annotations as wide as the state.
    dropout: on word vectors, between encoder layers and on the read-out.
    tie: the output layer shares its weight with the target's word vectors.
    """

    kind: Literal["rnn"] = "rnn"
    attention: Annotated[
        AttentionSpec | None,
        PlainValidator(_read_attention),
        PlainSerializer(lambda spec: None if spec is None else spec.to_dict()),
    ] = AttentionSpec(score=Additive())
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
        """How long a source may be; a target has no limit."""
        return LengthLimits(source=get_key_limit(self.attention, "model.attention"))

    def fitted_attention(self) -> AttentionSpec | None:
        """The attention with the widths of this model: query [.., hidden], memory [.., annotation]."""
        spec = self.attention
        if spec is None:
            return None
        score, equal_widths = spec.score, not self.bidirectional
        raw = score is not None and (score.two_widths or (score.unprojected_by_default and equal_widths))
        raw = raw and spec.heads in (None, 1) and spec.kv_heads in (None, 1)
        if not spec.project and not raw:
            raise BadRecipe(
                f"attention.project=False needs a score for two widths, such as additive, got "
                f"{spec.score!r}: decoder state and annotations differ in width. Leave project out"
            )
        return replace(spec, d_model=self.hidden, d_memory=self.annotation, project=not raw)

    @model_validator(mode="after")
    def _fits(self) -> "RNNConfig":
        if self.input_feeding and self.decoder != "luong":
            raise BadRecipe("input_feeding belongs to decoder: luong. Bahdanau's decoder reads its context")
        if self.tie and self.decoder == "luong" and self.embedding != self.hidden:
            raise BadRecipe(
                f"tie needs an output as wide as a word vector: with decoder: luong set embedding and hidden "
                f"to one number, got {self.embedding} and {self.hidden}"
            )
        if self.attention is None:
            if self.decoder == "luong":
                raise BadRecipe("decoder: luong is made of its attention: give one, such as {score: general}")
            return self
        if self.attention.d_model is not None or self.attention.d_memory is not None:
            raise BadRecipe("d_model and d_memory follow from hidden: leave them out and set hidden")
        if self.attention.causal:
            raise BadRecipe("causal has no meaning here: the source is known as a whole. Leave it out")
        self.fitted_attention()
        return self


class RNNTranslator(nn.Module):
    """Encoder, decoder with its attention, and output layer."""

    def __init__(self, config: RNNConfig, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.config = config
        e, n, layers = config.embedding, config.hidden, config.layers
        self.target_words: Any = nn.Embedding(target_vocab, e)
        self.dropout = nn.Dropout(config.dropout)
        between = config.dropout if layers > 1 else 0.0
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        network = network(e, n, layers, batch_first=True, dropout=between, bidirectional=config.bidirectional)
        self.encoder: Any = Encoder(network, nn.Embedding(source_vocab, e), self.dropout)
        self.decoder: Any = _decoder(config)
        self.output = nn.Linear(self.decoder.width, target_vocab)
        _initialise(self)
        self.tie_weights()
        self.register_load_state_dict_post_hook(tie_weights_after_loading)

    def tie_weights(self) -> None:
        """Let the output layer share its weight with the target's word vectors, where the recipe says so."""
        if self.config.tie:
            self.output.weight = self.target_words.weight

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_children(self)
        _initialise(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # to_empty makes two weights of one
        self.tie_weights()
        return self

    def forward(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T e"]:
        """Teacher forcing: the read-outs t_i after target_in (BOS first); `output` makes them logits."""
        return self._decode(target_in, self.start(source, source_keep))[0]

    def attended(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T e"], dict[str, Attended]]:
        """What `forward` gives, and {"cross.0": Attended} with weights [B,H,T,S]; {} without attention."""
        hidden, looked, _ = self._decode(target_in, self.start(source, source_keep, capture=True))
        return hidden, {} if looked is None else {"cross.0": looked}

    def start(
        self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"], *, capture: bool = False
    ) -> DecoderState:
        """Encode the source, padded on the right; the key side of the attention is computed here, once."""
        return self.decoder.start(self.encoder(source, keep), capture)

    def step(self, tokens: Int[Tensor, "B"], state: DecoderState, *, capture: bool = False) -> Step:
        """Score the next word, in float32 at least; weights {"cross.0": [B,H,S]}."""
        hidden, looked, state = self._decode(tokens[:, None], state)
        logits = self.output(hidden[:, 0])
        shown = capture and looked is not None and looked.weights is not None
        weights = {"cross.0": looked.weights[:, :, 0]} if shown else {}  # pyright: ignore[reportOptionalSubscript, reportOptionalMemberAccess]
        return Step(logits.to(torch.promote_types(logits.dtype, torch.float32)), state, weights)

    def encoder_weights(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """{}: the encoder is recurrent, it attends to nothing."""
        return {}

    @property
    def length_limits(self) -> LengthLimits:
        """How long a source may be; a target has no limit."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """No modules: the cells of encoder and decoder are not called one after another."""
        return []

    def attentions(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        return {} if self.decoder.attention is None else {"cross.0": self.decoder.attention}

    def attention_places(self) -> dict[str, Literal["encoder", "decoder", "cross"]]:
        """Where every attention of `attentions` is."""
        return dict.fromkeys(self.attentions(), "cross")

    def _decode(self, target_in: Tensor, state: DecoderState) -> tuple[Tensor, Attended | None, DecoderState]:
        hidden, looked, state = self.decoder(self.dropout(self.target_words(target_in)), state)
        return self.dropout(hidden), looked, state


def _decoder(config: RNNConfig) -> PlainDecoder | BahdanauDecoder | LuongDecoder:
    spec, sizes = config.fitted_attention(), (config.cell, config.embedding, config.hidden)
    if spec is None:
        return PlainDecoder(*sizes, config.annotation)
    if config.decoder == "luong":
        return LuongDecoder(*sizes, spec, config.input_feeding)
    return BahdanauDecoder(*sizes, spec)


def _orthogonal(weight: Tensor) -> None:
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # torch has no QR in half precision
    weight.copy_(nn.init.orthogonal_(wide))


def _initialise(model: RNNTranslator) -> None:
    """Orthogonal recurrent matrices, Xavier for the others; an LSTM starts by remembering."""
    for name, weight in model.named_parameters():
        if ".attention." in name:
            continue
        if "words" in name:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        elif weight.dim() == 1:
            nn.init.zeros_(weight)
        else:
            recurrent = "weight_hh" in name or "from_state" in name
            for gate in weight.data.split(model.config.hidden) if recurrent else (weight.data,):
                (_orthogonal if recurrent else nn.init.xavier_uniform_)(gate)
    if model.config.cell == "lstm":
        biases = [bias for name, bias in model.encoder.named_parameters() if "bias_ih" in name]
        for bias in (*biases, model.decoder.cell.from_word.bias):
            bias.data[model.config.hidden : 2 * model.config.hidden] = 1.0
