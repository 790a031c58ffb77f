"""The recurrent encoder–decoder, with Bahdanau's or Luong's attention or without."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.kernel.masking import promote_to_float32
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.length_limits import LengthLimits
from qkv.model.recurrent_cell import initialise_orthogonal
from qkv.model.recurrent_decoders import BahdanauDecoder, DecoderState, FixedContextDecoder, LuongDecoder
from qkv.model.recurrent_encoder import RecurrentEncoder
from qkv.model.seq2seq_config import RNNConfig as RNNConfig
from qkv.model.spec_fields import Place
from qkv.model.stepper import Step
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended


class RNNTranslator(WeightTyingModule):
    """The recurrent encoder–decoder: encoder, decoder with its attention, and output layer.

    Args:
        config: Sizes and parts.
        source_vocab: Number of tokens of the source.
        target_vocab: Number of tokens of the target.
    """

    def __init__(self, config: RNNConfig, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.config = config
        e, n, layers = config.embedding, config.hidden, config.layers
        self.target_words: Any = nn.Embedding(target_vocab, e)
        self.dropout = nn.Dropout(config.dropout)
        layer_dropout = config.dropout if layers > 1 else 0.0
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        network = network(
            e, n, layers, batch_first=True, dropout=layer_dropout, bidirectional=config.bidirectional
        )
        self.encoder: Any = RecurrentEncoder(network, nn.Embedding(source_vocab, e), self.dropout)
        self.decoder: Any = _build_decoder(config)
        self.output = nn.Linear(self.decoder.width, target_vocab)
        _initialise(self)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the target's word vectors, where `tie` is set."""
        if self.config.tie:
            self.output.weight = self.target_words.weight

    def reset_parameters(self) -> None:
        """Initialise all weights at random."""
        reset_parameters_of_nearest_descendants(self)
        _initialise(self)

    def forward(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T e"]:
        """Compute the decoder's output for all positions of a known target (teacher forcing).

        Args:
            source: Token ids [B,S], padded on the right.
            source_keep: [B,S] bool, True at real tokens.
            target_in: Token ids [B,T], the begin symbol first.

        Returns:
            Read-outs [B,T,e]; `output` computes logits from them.
        """
        return self._decode(target_in, self.start(source, source_keep))[0]

    def forward_with_weights(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T e"], dict[str, Attended]]:
        """Compute `forward` together with the result of the attention.

        Args:
            source: Token ids [B,S], padded on the right.
            source_keep: [B,S] bool, True at real tokens.
            target_in: Token ids [B,T], the begin symbol first.

        Returns:
            Read-outs [B,T,e], and "cross.0" -> the result with weights [B,H,T,S]; {} without attention.
        """
        hidden, attended, _ = self._decode(target_in, self.start(source, source_keep, capture=True))
        return hidden, {} if attended is None else {"cross.0": attended}

    def start(
        self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"], *, capture: bool = False
    ) -> DecoderState:
        """Encode the source and prepare its keys for the attention.

        Args:
            source: Token ids [B,S], padded on the right.
            keep: [B,S] bool, True at real tokens.
            capture: Whether steps will be asked for weights.

        Returns:
            The state before the first token.
        """
        return self.decoder.start(self.encoder(source, keep), capture)

    def step(self, tokens: Int[Tensor, "B"], state: DecoderState, *, capture: bool = False) -> Step:
        """Read the last token of every row and score the next one, in float32 at least.

        Args:
            tokens: [B], the begin symbol first.
            state: The state before.
            capture: Whether to return weights.

        Returns:
            Logits [B,V], the state after the token, and weights "cross.0" -> [B,H,S].
        """
        hidden, attended, state = self._decode(tokens[:, None], state)
        logits = self.output(hidden[:, 0])
        weights = {}
        if capture and attended is not None and attended.weights is not None:
            weights["cross.0"] = attended.weights[:, :, 0]
        return Step(promote_to_float32(logits), state, weights)

    def encoder_weights(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """Compute the attention weights of the encoder, which has none.

        Args:
            source: Not used.
            keep: Not used.

        Returns:
            {}.
        """
        return {}

    @property
    def length_limits(self) -> LengthLimits:
        """The longest source; a target has no limit."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """List the blocks that `forward` calls once, in this order.

        Returns:
            []: the cells of encoder and decoder are called many times.
        """
        return []

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the word vectors, the encoder and the decoder.

        Returns:
            The groups; see `Objective.layer_groups`.
        """
        return [[self.encoder.words, self.target_words], [self.encoder], [self.decoder]]

    def attention_layers(self) -> dict[str, Attention]:
        """List every attention.

        Returns:
            "cross.0" -> the layer; {} without attention.
        """
        return {} if self.decoder.attention is None else {"cross.0": self.decoder.attention}

    def attention_places(self) -> dict[str, Place]:
        """List where every attention is.

        Returns:
            The names of `attention_layers` -> "cross".
        """
        return dict.fromkeys(self.attention_layers(), "cross")

    def _decode(self, target_in: Tensor, state: DecoderState) -> tuple[Tensor, Attended | None, DecoderState]:
        hidden, attended, state = self.decoder(self.dropout(self.target_words(target_in)), state)
        return self.dropout(hidden), attended, state


def _build_decoder(config: RNNConfig) -> FixedContextDecoder | BahdanauDecoder | LuongDecoder:
    spec, sizes = config.complete_spec(), (config.cell, config.embedding, config.hidden)
    if spec is None:
        return FixedContextDecoder(*sizes, config.annotation)
    if config.decoder == "luong":
        return LuongDecoder(*sizes, spec, config.input_feeding)
    return BahdanauDecoder(*sizes, spec)


def _initialise(model: RNNTranslator) -> None:
    """Initialise recurrent matrices as orthogonal, others by Xavier; forget gates of an LSTM start open."""
    encoder, cell, attention = model.encoder, model.decoder.cell, model.decoder.attention
    from_attention = {id(weight) for weight in attention.parameters()} if attention is not None else set()
    embeddings = {id(model.target_words.weight), id(encoder.words.weight)}
    recurrent = {id(weight) for weight in (*encoder.recurrent_weights(), cell.from_state.weight)}
    for weight in model.parameters():
        if id(weight) in from_attention:
            continue
        if id(weight) in embeddings:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        elif weight.dim() == 1:
            nn.init.zeros_(weight)
        else:
            is_recurrent = id(weight) in recurrent
            for gate in weight.data.split(model.config.hidden) if is_recurrent else (weight.data,):
                (initialise_orthogonal if is_recurrent else nn.init.xavier_uniform_)(gate)
    if model.config.cell == "lstm":
        for bias in (*encoder.input_biases(), cell.from_word.bias):
            bias.data[model.config.hidden : 2 * model.config.hidden] = 1.0  # the forget gate
