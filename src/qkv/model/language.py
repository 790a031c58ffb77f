"""A decoder language model: p(x_t | x_1 … x_{t-1}) with attention, recurrence or convolution."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

from jaxtyping import Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.kernel.masking import promote_to_float32
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.adaptive_output import make_output
from qkv.model.dropout import dropout
from qkv.model.feedforward import Activation, FeedForwardNet, Normalisation, make_norm
from qkv.model.length_limits import LengthLimit, LengthLimits, find_smallest_limit, get_key_limit
from qkv.model.mixers import AttentionMixer, ConvolutionMixer, Hidden, RecurrentMixer, SequenceMixer
from qkv.model.positions import LearnedPositions, NoPositions, Sinusoids
from qkv.model.spec_fields import CausalSpecField
from qkv.model.stepper import Step
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict

INITIAL_STD = 0.02
Tokens = Int[Tensor, "B N"]


class LanguageModelConfig(Strict):
    """A stack of causal sequence mixers, each followed by a feed-forward network.

    Args:
        kind: the value that selects this model.
        mixer: what lets positions exchange information: attention, gru, lstm or convolution.
        layers: number of layers.
        width: M, the width of the residual stream.
        heads: heads of an attention that names none.
        feedforward: inner width of the feed-forward networks; 0 leaves them out.
        activation: of the feed-forward networks: relu, gelu or swiglu.
        norm: layer (LayerNorm) or rms (RMSNorm), before every sublayer.
        dropout: rate of dropout on embeddings, sublayers and hidden units.
        positions: sinusoidal, learned or none; null is learned for attention, none for the other mixers.
        max_length: size of the table of learned positions.
        attention: mixer attention: its parts; it is causal.
        kernel_size: mixer convolution: positions that one output reads.
        dilation: mixer convolution: layer i reads positions dilation^i apart; 1 reads neighbours.
        separable: mixer convolution: one filter per channel; false has one per pair of channels.
        convolution_layers: mixer attention: so many of the first layers are convolutions instead.
        tied: the output layer shares the weight of the embedding.
        clusters: the ids at which clusters of rare words begin, such as [1000, 9000] (tokens.kind: word); a
            cluster is scored only where the next word is in it, so that large vocabularies train faster.
    """

    kind: Literal["language"] = "language"
    mixer: Literal["attention", "gru", "lstm", "convolution"] = "attention"
    layers: PositiveInt = Field(default=4, le=1000)
    width: PositiveInt = 128
    heads: PositiveInt = 4
    feedforward: NonNegativeInt = 512
    activation: Activation = "gelu"
    norm: Normalisation = "layer"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["sinusoidal", "learned", "none"] | None = None
    max_length: PositiveInt = 512
    attention: CausalSpecField = AttentionSpec(causal=True)
    kernel_size: PositiveInt = 7
    dilation: PositiveInt = 2
    separable: bool = True
    convolution_layers: NonNegativeInt = 0
    tied: bool = True
    clusters: tuple[PositiveInt, ...] = ()

    @property
    def position_kind(self) -> Literal["sinusoidal", "learned", "none"]:
        """The positions of this model, where the recipe leaves them to the mixer too."""
        return self.positions or ("learned" if self.mixer == "attention" else "none")

    @property
    def spec(self) -> AttentionSpec:
        """The attention of every layer with this model's width and, where it names none, its heads."""
        return replace(self.attention, d_model=self.width, heads=self.attention.heads or self.heads)

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read (as a target): None where there is no limit."""
        table = LengthLimit(self.max_length, "model.max_length") if self.position_kind == "learned" else None
        keys = get_key_limit(self.attention, "model.attention") if self.mixer == "attention" else None
        return LengthLimits(target=find_smallest_limit(table, keys))

    @property
    def has_bounded_state(self) -> bool:
        """Whether what the model keeps of a text has a fixed size, however long the text is."""
        spec = self.attention
        return self.mixer != "attention" or not spec.kernel.forms_weights or spec.scope.reach is not None

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "LanguageModelConfig":
        if self.attention.d_model is not None or self.attention.d_memory is not None:
            raise BadRecipe("attention: d_model and d_memory follow from width: leave them out and set width")
        if not self.attention.causal:
            raise BadRecipe("attention: causal must be True in a language model. Leave it out")
        if self.mixer == "attention":
            _ = self.spec
        if self.convolution_layers and (self.mixer != "attention" or self.convolution_layers >= self.layers):
            raise BadRecipe(
                f"convolution_layers={self.convolution_layers} needs mixer: attention and more layers than "
                f"that, got mixer: {self.mixer} and layers={self.layers}: lower it, or leave it out"
            )
        if list(self.clusters) != sorted(set(self.clusters)):
            raise BadRecipe(f"clusters begin at ascending ids, got {list(self.clusters)}: sort them")
        return self

    def has_attention(self, layer: int) -> bool:
        """Whether the mixer of one layer, counted from 0, is attention."""
        return self.mixer == "attention" and layer >= self.convolution_layers

    def make_mixer(self, layer: int) -> SequenceMixer:
        """The mixer of one layer, counted from 0."""
        if self.has_attention(layer):
            return AttentionMixer(self.spec)
        if self.mixer in ("convolution", "attention"):
            return ConvolutionMixer(self.width, self.kernel_size, self.dilation**layer, self.separable)
        return RecurrentMixer(self.mixer, self.width)


class State(NamedTuple):
    """What a language model has read: the number of positions, and the state of every layer's mixer."""

    position: int
    layers: tuple[Any, ...]


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed-forward(norm(x)).

    Args:
        config: the model's config.
        layer: the number of this layer, from 0.
    """

    def __init__(self, config: LanguageModelConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm, self.mixer = make_norm(config.norm, config.width), config.make_mixer(layer)
        self.has_feedforward = config.feedforward > 0
        if self.has_feedforward:
            self.feedforward_norm = make_norm(config.norm, config.width)
            self.feedforward = FeedForwardNet(
                config.width, config.feedforward, config.activation, config.dropout
            )

    def forward(self, x: Hidden) -> Hidden:
        """All positions at once."""
        return self._add(x, self.mixer(self.norm(x)))

    def attend(self, x: Hidden) -> tuple[Hidden, Attended]:
        """`forward` with the attention weights."""
        attended = self.mixer.attend(self.norm(x))
        return self._add(x, attended.out), attended

    def extend(self, x: Hidden, state: Any) -> tuple[Hidden, Attended, Any]:
        """The next positions: output, attention and the state after them."""
        attended, after = self.mixer.extend(self.norm(x), state)
        return self._add(x, attended.out), attended, after

    def _add(self, x: Hidden, mixed: Hidden) -> Hidden:
        x = x + dropout(mixed, self.dropout, self.training)
        if not self.has_feedforward:
            return x
        update = self.feedforward(self.feedforward_norm(x))
        return x + dropout(update, self.dropout, self.training)


class LanguageModel(WeightTyingModule):
    """Embedding, positions, blocks, final normalisation and output layer.

    Args:
        config: sizes, and which mixer.
        vocab: V, the number of tokens.

    Example:
        >>> import torch
        >>> model = LanguageModel(LanguageModelConfig(layers=1, width=16), vocab=50)
        >>> hidden = model(torch.tensor([[3, 1, 4]]))
        >>> model.output(hidden).shape
        torch.Size([1, 3, 50])
    """

    def __init__(self, config: LanguageModelConfig, vocab: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab, config.width)
        self.positions = _make_positions(config)
        self.blocks: Any = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.width)
        self.output: Any = make_output(config.width, vocab, config.clusters)
        self._initialise()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the embedding, unless the config says otherwise."""
        if self.config.tied:
            self.output.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        self._initialise()

    def forward(self, tokens: Tokens) -> Hidden:
        """Hidden states [B,N,M] before the output layer; state t has read the tokens up to t."""
        x = self._embed(tokens, 0)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_with_weights(self, tokens: Tokens) -> tuple[Hidden, dict[str, Attended]]:
        """`forward`, and the attention of every layer: "layer.i" -> Attended; empty without attention."""
        x, attended = self._embed(tokens, 0), {}
        for i, block in enumerate(self.blocks):
            x, attended[f"layer.{i}"] = block.attend(x)
        return self.norm(x), {name: attended[name] for name in self.attention_layers()}

    def extend(self, tokens: Tokens, state: State) -> tuple[Hidden, State]:
        """Hidden states of the next tokens of every row, and the state after them."""
        x, _, state = self._extend(tokens, state)
        return x, state

    def start(self, *, batch: int = 1, capture: bool = False) -> State:
        """The state before the first token of `batch` rows; `capture` says that weights will be wanted."""
        return State(0, tuple(block.mixer.start(batch, return_weights=capture) for block in self.blocks))

    def step(self, tokens: Int[Tensor, "B"], state: State, *, capture: bool = False) -> Step:
        """Read one token of every row and score the next one."""
        return self.read(tokens[:, None], state, capture=capture)

    def read(self, tokens: Tokens, state: State, *, capture: bool = False) -> Step:
        """Read several tokens of every row and score the next one; the weights are those of the last."""
        x, attended, state = self._extend(tokens, state)
        captured = {
            f"layer.{i}": each.weights[:, :, -1]
            for i, each in enumerate(attended)
            if capture and each.weights is not None
        }
        return Step(promote_to_float32(self.output(x[:, -1])), state, captured)

    @property
    def length_limits(self) -> LengthLimits:
        """How many tokens the model can read."""
        return self.config.length_limits

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights: "layer.i"; empty for the other mixers."""
        layers = enumerate(self.blocks)
        return {f"layer.{i}": block.mixer.attention for i, block in layers if self.config.has_attention(i)}

    def layer_groups(self) -> list[list[nn.Module]]:
        """The embeddings, then the blocks in their order; see `Objective.layer_groups`."""
        return [[self.embedding, self.positions], *([block] for block in self.blocks)]

    def _extend(self, tokens: Tokens, state: State) -> tuple[Hidden, list[Attended], State]:
        x, attended, layers = self._embed(tokens, state.position), [], []
        for block, before in zip(self.blocks, state.layers, strict=True):
            x, each, after = block.extend(x, before)
            attended.append(each)
            layers.append(after)
        return self.norm(x), attended, State(state.position + tokens.shape[1], tuple(layers))

    def _embed(self, tokens: Tokens, first: int) -> Hidden:
        x = self.positions(self.embedding(tokens), first)
        return dropout(x, self.config.dropout, self.training)

    def _initialise(self) -> None:
        """N(0, 0.02²) for embeddings, positions and matrices, as in GPT-2; zeros for biases.

        Matrices that write into the residual stream have 1/sqrt(2·layers) of that, so that its variance does
        not grow with depth (Radford et al. 2019, section 2.3).  Cells of a recurrence keep torch's values.
        """
        residual = INITIAL_STD / (2 * self.config.layers) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            elif isinstance(module, nn.Linear):
                writes = module.out_features == self.config.width and module is not self.output
                nn.init.normal_(module.weight, std=residual if writes else INITIAL_STD)


def _make_positions(config: LanguageModelConfig) -> nn.Module:
    if config.position_kind == "learned":
        return LearnedPositions(config.width, config.max_length, INITIAL_STD)
    return Sinusoids(config.width) if config.position_kind == "sinusoidal" else NoPositions()
