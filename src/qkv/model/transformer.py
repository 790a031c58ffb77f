"""The Transformer encoder–decoder, with any attention in its three places (Vaswani et al. 2017)."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv import masks
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.blocks import EncoderBlock, apply_decoder, build_decoder, step_decoder
from qkv.model.dropout import dropout
from qkv.model.length_limits import LengthLimits
from qkv.model.positions import LearnedPositions, Sinusoids
from qkv.model.spec_fields import Place
from qkv.model.stepper import Step
from qkv.model.transformer_config import TransformerConfig as TransformerConfig
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended
from qkv.symbols import PAD

Tokens = Int[Tensor, "B N"]
Real = Bool[Tensor, "B N"]


class State(NamedTuple):
    """Decode state of a Transformer.

    Args:
        position: The number of tokens read.
        layers: The states of both attentions of every layer.
    """

    position: int
    layers: tuple[Any, ...]


class Transformer(WeightTyingModule):
    """The encoder–decoder: embeddings scaled by sqrt(M), both stacks, and the output layer.

    Args:
        config: Sizes and parts.
        source_vocab: Number of tokens of the source.
        target_vocab: Number of tokens of the target.
    """

    def __init__(self, config: TransformerConfig, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.config = config
        width, pre = config.width, config.norm == "pre"
        self.source = _build_embedding(source_vocab, width)
        self.target = self.source if config.embeddings == "shared" else _build_embedding(target_vocab, width)
        self.positions = _build_positions(config)
        self.encoder: Any = nn.ModuleList(
            EncoderBlock(config.complete_spec("encoder", layer), config.feedforward, config.dropout, pre)
            for layer in range(config.encoder_layers)
        )
        self.decoder: Any = build_decoder(config, config.decoder_layers)
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.output = nn.Linear(width, target_vocab, bias=False)
        if config.embeddings == "separate":
            nn.init.normal_(self.output.weight, std=width**-0.5)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the target's embedding, unless they are separate."""
        if self.config.embeddings != "separate":
            self.output.weight = self.target.weight

    def reset_parameters(self) -> None:
        """Initialise all weights at random."""
        reset_parameters_of_nearest_descendants(self)
        separate = (self.output,) if self.config.embeddings == "separate" else ()
        for table in (self.source, self.target, *separate):
            nn.init.normal_(table.weight, std=self.config.width**-0.5)

    def forward(self, source: Tokens, keep: Real, target_in: Int[Tensor, "B T"]) -> Float[Tensor, "B T M"]:
        """Compute the decoder's output for all positions of a known target (teacher forcing).

        Args:
            source: Token ids [B,S].
            keep: [B,S] bool, True at real tokens.
            target_in: Token ids [B,T], the begin symbol first.

        Returns:
            Hidden states [B,T,M]; `output` computes logits from them.
        """
        memory, _ = self._encode(source, keep)
        x, _ = apply_decoder(self.decoder, self._embed(self.target, target_in), memory, keep)
        return self.decoder_norm(x)

    def forward_with_weights(
        self, source: Tokens, keep: Real, target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T M"], dict[str, Attended]]:
        """Compute `forward` together with the results of every attention.

        Args:
            source: Token ids [B,S].
            keep: [B,S] bool, True at real tokens.
            target_in: Token ids [B,T], the begin symbol first.

        Returns:
            Hidden states [B,T,M], and "encoder.N", "decoder.N" and "cross.N" -> the result of the attention.
        """
        memory, captured = self._encode(source, keep, capture=True)
        x, of_decoder = apply_decoder(
            self.decoder, self._embed(self.target, target_in), memory, keep, capture=True
        )
        return self.decoder_norm(x), captured | of_decoder

    @property
    def length_limits(self) -> LengthLimits:
        """The longest source and target."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """List the blocks that `forward` calls once, in this order.

        Returns:
            The blocks of the encoder and of the decoder.
        """
        return [*self.encoder, *self.decoder]

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the embeddings, then the blocks of the encoder and of the decoder.

        Returns:
            The groups; see `Objective.layer_groups`.
        """
        embeddings: list[nn.Module] = [self.source, self.target, self.positions]
        encoder = [[block] for block in self.encoder]
        encoder[-1].append(self.encoder_norm)
        return [embeddings, *encoder, *([block] for block in self.decoder)]

    def attention_layers(self) -> dict[str, Attention]:
        """List every attention.

        Returns:
            "encoder.N", "decoder.N" and "cross.N" -> the layer.
        """
        named: dict[str, Any] = {f"encoder.{i}": block.attention for i, block in enumerate(self.encoder)}
        for i, block in enumerate(self.decoder):
            named |= {f"decoder.{i}": block.attention, f"cross.{i}": block.cross}
        return named

    def attention_places(self) -> dict[str, Place]:
        """List where every attention is.

        Returns:
            The names of `attention_layers` -> "encoder", "decoder" or "cross".
        """
        places: dict[str, Place] = {f"encoder.{i}": "encoder" for i in range(len(self.encoder))}
        for i in range(len(self.decoder)):
            places |= {f"decoder.{i}": "decoder", f"cross.{i}": "cross"}
        return places

    def encoder_weights(self, source: Tokens, keep: Real) -> dict[str, Tensor]:
        """Compute the attention weights of the encoder.

        Args:
            source: Token ids [B,S].
            keep: [B,S] bool, True at real tokens.

        Returns:
            "encoder.N" -> [B,H,S,S].
        """
        captured = self._encode(source, keep, capture=True)[1]
        return {name: result.weights for name, result in captured.items() if result.weights is not None}

    def start(self, source: Tokens, keep: Real, *, capture: bool = False) -> State:
        """Encode the source.

        Args:
            source: Token ids [B,S].
            keep: [B,S] bool, True at real tokens.
            capture: Whether steps will be asked for weights.

        Returns:
            The state before the first token.
        """
        memory, _ = self._encode(source, keep)
        return State(0, tuple(block.start(memory, keep, capture) for block in self.decoder))

    def step(self, tokens: Int[Tensor, "B"], state: State, *, capture: bool = False) -> Step:
        """Read the last token of every row and score the next one.

        Args:
            tokens: [B], the begin symbol first.
            state: The state before.
            capture: Whether to return weights.

        Returns:
            Logits [B,V], the state after the token, and weights "decoder.N" and "cross.N" -> [B,H,S].
        """
        x = self._embed(self.target, tokens[:, None], state.position)
        x, layers, captured = step_decoder(self.decoder, x, state.layers, capture)
        logits = self.output(self.decoder_norm(x[:, 0])).float()
        return Step(logits, State(state.position + 1, layers), captured)

    def _encode(
        self, source: Tokens, keep: Real, capture: bool = False
    ) -> tuple[Tensor, dict[str, Attended]]:
        # Zero the padding: the residual stream would carry it through every layer and its normalisation.
        x = masks.zero_keys(self._embed(self.source, source.masked_fill(~keep, PAD)), keep)
        captured: dict[str, Attended] = {}
        for i, block in enumerate(self.encoder):
            x, attended = block(x, keep, capture)
            if capture:
                captured[f"encoder.{i}"] = attended
        return self.encoder_norm(x), captured

    def _embed(self, table: nn.Embedding, tokens: Tokens, begin: int = 0) -> Float[Tensor, "B N M"]:
        x = self.positions(table(tokens) * self.config.width**0.5, begin)
        return dropout(x, self.config.dropout, self.training)


def _build_positions(config: TransformerConfig) -> nn.Module:
    if config.positions == "learned":
        return LearnedPositions(config.width, config.max_length)
    return Sinusoids(config.width)


def _build_embedding(vocab: int, width: int) -> nn.Embedding:
    table = nn.Embedding(vocab, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table
