"""The Transformer encoder–decoder with any attention in its three places (Vaswani et al. 2017)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from qkv import masks
from qkv.errors import BadRecipe
from qkv.kernel.reset_parameters import reset_children
from qkv.layer import Attention
from qkv.model.blocks import DecoderBlock, EncoderBlock
from qkv.model.dropout import dropout
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit, get_key_limit
from qkv.model.positions import LearnedPositions, Sinusoids
from qkv.model.spec_fields import CausalSpecField, SpecField
from qkv.model.stepper import Step
from qkv.model.weight_tying import tie_weights_after_loading
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict
from qkv.symbols import PAD

Tokens = Int[Tensor, "B N"]
Real = Bool[Tensor, "B N"]


class TransformerConfig(Strict):
    """A Transformer encoder–decoder.  An attention that names no heads takes the model's."""

    kind: Literal["transformer"] = "transformer"
    encoder_layers: PositiveInt = Field(default=4, le=1000)
    decoder_layers: PositiveInt = Field(default=4, le=1000)
    width: PositiveInt = Field(default=128, description="M, the width of the residual stream")
    heads: PositiveInt = 4
    feedforward: PositiveInt = Field(default=256, description="inner width of the feed-forward nets")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: PositiveInt = Field(default=512, description="size of the table of learned positions")
    embeddings: Literal["shared", "target", "separate"] = Field(
        default="shared",
        description="shared: source, target and output are one matrix; target: two of them; separate: none",
    )
    encoder: SpecField = Field(default=AttentionSpec(), description="the encoder's self-attention")
    decoder: CausalSpecField = Field(
        default=AttentionSpec(causal=True), description="the decoder's causal self-attention"
    )
    cross: SpecField = Field(default=AttentionSpec(), description="the decoder's attention to the source")

    @property
    def length_limits(self) -> LengthLimits:
        """How long a source and a target may be."""
        table = LengthLimit(self.max_length, "model.max_length") if self.positions == "learned" else None
        encoder, decoder, cross = (
            get_key_limit(getattr(self, name), f"model.{name}") for name in ("encoder", "decoder", "cross")
        )
        return LengthLimits(find_smallest_limit(table, encoder, cross), find_smallest_limit(table, decoder))

    def place(self, name: Literal["encoder", "decoder", "cross"]) -> AttentionSpec:
        """The attention of a place with the widths, and where it names none the heads, of this model."""
        spec: AttentionSpec = getattr(self, name)
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
            self.place(name)
        return self


class State(NamedTuple):
    """Decode state: the position, and every layer's states of its own and its cross-attention."""

    position: int
    layers: tuple[Any, ...]


class Transformer(nn.Module):
    """Encoder and decoder stacks, embeddings scaled by sqrt(M), one output layer."""

    def __init__(self, config: TransformerConfig, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.config = config
        width, pre = config.width, config.norm == "pre"
        self.source = _embedding(source_vocab, width)
        self.target = self.source if config.embeddings == "shared" else _embedding(target_vocab, width)
        self.positions = _positions(config)
        self.encoder: Any = nn.ModuleList(
            EncoderBlock(config.place("encoder"), config.feedforward, config.dropout, pre)
            for _ in range(config.encoder_layers)
        )
        own, cross = config.place("decoder"), config.place("cross")
        self.decoder: Any = nn.ModuleList(
            DecoderBlock(own, cross, config.feedforward, config.dropout, pre)
            for _ in range(config.decoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.output = nn.Linear(width, target_vocab, bias=False)
        if config.embeddings == "separate":
            nn.init.normal_(self.output.weight, std=width**-0.5)
        self.tie_weights()
        self.register_load_state_dict_post_hook(tie_weights_after_loading)

    def tie_weights(self) -> None:
        """Let the output layer share its weight with the target's embedding, unless they are separate."""
        if self.config.embeddings != "separate":
            self.output.weight = self.target.weight

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_children(self)
        separate = (self.output,) if self.config.embeddings == "separate" else ()
        for table in (self.source, self.target, *separate):
            nn.init.normal_(table.weight, std=self.config.width**-0.5)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # to_empty makes two weights of one
        self.tie_weights()
        return self

    def forward(self, source: Tokens, keep: Real, target_in: Int[Tensor, "B T"]) -> Float[Tensor, "B T M"]:
        """Teacher forcing: the decoder's output [B,T,M] before the output layer, for target tokens from BOS
        on.
        """
        memory, _ = self._encode(source, keep)
        x = self._embed(self.target, target_in)
        for block in self.decoder:
            x, _, _ = block(x, memory, keep)
        return self.decoder_norm(x)

    def attended(
        self, source: Tokens, keep: Real, target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T M"], dict[str, Attended]]:
        """What `forward` gives, and where every layer looked: "encoder.i", "decoder.i" and "cross.i" ->
        Attended.
        """
        memory, seen = self._encode(source, keep, capture=True)
        x = self._embed(self.target, target_in)
        for i, block in enumerate(self.decoder):
            x, seen[f"decoder.{i}"], seen[f"cross.{i}"] = block(x, memory, keep, capture=True)
        return self.decoder_norm(x), seen

    @property
    def length_limits(self) -> LengthLimits:
        """How long a source and a target may be."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """The blocks of both stacks, each of which `forward` calls once, in this order."""
        return [*self.encoder, *self.decoder]

    def attentions(self) -> dict[str, Attention]:
        """Every attention by the name of its weights: "encoder.i", "decoder.i", "cross.i"."""
        named: dict[str, Any] = {f"encoder.{i}": block.attention for i, block in enumerate(self.encoder)}
        for i, block in enumerate(self.decoder):
            named |= {f"decoder.{i}": block.attention, f"cross.{i}": block.cross}
        return named

    def attention_places(self) -> dict[str, Literal["encoder", "decoder", "cross"]]:
        """Where every attention of `attentions` is."""
        places: dict[str, Literal["encoder", "decoder", "cross"]] = {
            f"encoder.{i}": "encoder" for i in range(len(self.encoder))
        }
        for i in range(len(self.decoder)):
            places |= {f"decoder.{i}": "decoder", f"cross.{i}": "cross"}
        return places

    def encoder_weights(self, source: Tokens, keep: Real) -> dict[str, Tensor]:
        """Where the encoder's layers look: "encoder.i" -> [B,H,S,S]."""
        seen = self._encode(source, keep, capture=True)[1]
        return {name: look.weights for name, look in seen.items() if look.weights is not None}

    def start(self, source: Tokens, keep: Real, *, capture: bool = False) -> State:
        """Encode the source; `capture` says that weights will be asked for."""
        memory, _ = self._encode(source, keep)
        return State(0, tuple(block.start(memory, keep, capture) for block in self.decoder))

    def step(self, tokens: Int[Tensor, "B"], state: State, *, capture: bool = False) -> Step:
        """Read the last token of every row and score the next one."""
        x = self._embed(self.target, tokens[:, None], state.position)
        layers, seen = [], {}
        for i, (block, before) in enumerate(zip(self.decoder, state.layers, strict=True)):
            x, after, (own, cross) = block.step(x, before)
            layers.append(after)
            looked = {f"decoder.{i}": own, f"cross.{i}": cross} if capture else {}
            seen |= {name: weights[:, :, 0] for name, weights in looked.items() if weights is not None}
        logits = self.output(self.decoder_norm(x[:, 0])).float()
        return Step(logits, State(state.position + 1, tuple(layers)), seen)

    def _encode(
        self, source: Tokens, keep: Real, capture: bool = False
    ) -> tuple[Tensor, dict[str, Attended]]:
        # The residual stream carries padding past every layer: normalised, it would reach the weights.
        x = masks.hide_keys(self._embed(self.source, source.masked_fill(~keep, PAD)), keep)
        seen: dict[str, Attended] = {}
        for i, block in enumerate(self.encoder):
            x, look = block(x, keep, capture)
            if capture:
                seen[f"encoder.{i}"] = look
        return self.encoder_norm(x), seen

    def _embed(self, table: nn.Embedding, tokens: Tokens, begin: int = 0) -> Float[Tensor, "B N M"]:
        x = self.positions(table(tokens) * self.config.width**0.5, begin)
        return dropout(x, self.config.dropout, self.training)


def _positions(config: TransformerConfig) -> nn.Module:
    if config.positions == "learned":
        return LearnedPositions(config.width, config.max_length)
    return Sinusoids(config.width)


def _embedding(vocab: int, width: int) -> nn.Embedding:
    table = nn.Embedding(vocab, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table
