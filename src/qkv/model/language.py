"""A decoder language model: p(x_t | x_1 … x_{t-1}) with attention, recurrence or convolution."""

from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor, nn

from qkv.kernel.masking import promote_to_float32
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.adaptive_output import make_output
from qkv.model.dropout import dropout
from qkv.model.feedforward import FeedForwardNet, make_norm
from qkv.model.language_config import LanguageModelConfig
from qkv.model.length_limits import LengthLimits
from qkv.model.mixers import Hidden
from qkv.model.positions import LearnedPositions, NoPositions, Sinusoids
from qkv.model.stepper import Step
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended

INITIAL_STD = 0.02
Tokens = Int[Tensor, "B N"]


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
        """N(0, 0.02²) for embeddings, positions and matrices, as in GPT-2.

        Matrices that write into the residual stream have 1/sqrt(2·layers) of that, so that its variance does
        not grow with depth (Radford et al. 2019, section 2.3); so have those of the queries, which are as
        wide.  Biases and cells of a recurrence keep torch's values.
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
