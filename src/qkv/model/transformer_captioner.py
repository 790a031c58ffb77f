"""A captioner with a Transformer decoder, whose layers attend to a grid of annotation vectors."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.kernel.masking import promote_to_float32
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.blocks import apply_decoder, build_decoder, step_decoder
from qkv.model.captioner_config import TransformerCaptionerConfig
from qkv.model.captioner_encoder import add_encoder_prefix, build_picture_encoder
from qkv.model.dropout import dropout
from qkv.model.length_limits import LengthLimits
from qkv.model.positions import LearnedPositions, Sinusoids
from qkv.model.spec_fields import Place
from qkv.model.stepper import Step
from qkv.model.transformer import State
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended

Pictures = Tensor  # [B,3,H,W]; [B,Y,X,C] where the encoder takes grids


class TransformerCaptioner(WeightTyingModule):
    """Encoder, normalisation of the annotations, decoder layers and output layer.

    Args:
        config: the sizes and parts.
        vocab: V, the number of tokens.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> from qkv.model.captioner_config import TransformerCaptionerConfig
        >>> model = TransformerCaptioner(TransformerCaptionerConfig(layers=1, width=16), vocab=30)
        >>> pictures, tokens = torch.zeros(1, 3, 16, 24), torch.tensor([[2, 7, 9]])
        >>> hidden, attended = model.forward_with_weights(pictures, tokens)
        >>> model.output(hidden).shape, attended["cross.0"].weights.shape
        (torch.Size([1, 3, 30]), torch.Size([1, 4, 3, 24]))
    """

    def __init__(
        self,
        config: TransformerCaptionerConfig,
        vocab: int,
        mean: tuple[float, ...] = (0.5,) * 3,
        sd: tuple[float, ...] = (0.25,) * 3,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder: Any = build_picture_encoder(config.encoder, mean, sd)
        self.annotation_norm = nn.LayerNorm(self.encoder.width)
        self.words = nn.Embedding(vocab, config.width)
        self.positions = (
            LearnedPositions(config.width, config.max_length)
            if config.positions == "learned"
            else Sinusoids(config.width)
        )
        self.decoder: Any = build_decoder(config, config.layers)
        self.decoder_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.output = nn.Linear(config.width, vocab)
        self._initialise_tables()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the word vectors, where `tie` is set."""
        if self.config.tie:
            self.output.weight = self.words.weight

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        self._initialise_tables()

    def forward(self, pictures: Pictures, target_in: Int[Tensor, "B T"]) -> Float[Tensor, "B T M"]:
        """The decoder's output for all positions of known captions (teacher forcing); `output` scores it.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            target_in: token ids, the begin symbol first, padded on the right.
        """
        memory = self.annotation_norm(self.encoder(pictures).vectors)
        x, _ = apply_decoder(self.decoder, self._embed(target_in), memory, None)
        return self.decoder_norm(x)

    def forward_with_weights(
        self, pictures: Pictures, target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T M"], dict[str, Attended]]:
        """`forward`, and what every attention did.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            target_in: token ids, the begin symbol first, padded on the right.

        Returns:
            The decoder's output, and "decoder.N" and "cross.N" -> the attention of layer N, with "encoder."
            before the names of the encoder's.
        """
        grid, attended, _ = self.encoder.forward_with_weights(pictures)
        memory = self.annotation_norm(grid.vectors)
        x, of_decoder = apply_decoder(self.decoder, self._embed(target_in), memory, None, capture=True)
        return self.decoder_norm(x), add_encoder_prefix(attended) | of_decoder

    def start(self, pictures: Pictures, *, capture: bool = False) -> State:
        """The state before the first token.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            capture: whether steps will be asked for weights.
        """
        memory = self.annotation_norm(self.encoder(pictures).vectors)
        return State(0, tuple(block.start(memory, None, capture) for block in self.decoder))

    def step(self, tokens: Int[Tensor, "B"], state: State, *, capture: bool = False) -> Step:
        """Read the last token of every row and score the next one, in float32 at least.

        Args:
            tokens: the begin symbol first.
            state: the state before.
            capture: whether to return weights.

        Returns:
            Scores [B,V], the state after the token, and weights "decoder.N" and "cross.N" -> [B,H,L].
        """
        x = self._embed(tokens[:, None], state.position)
        x, layers, weights = step_decoder(self.decoder, x, state.layers, capture)
        scores = self.output(self.decoder_norm(x[:, 0]))
        return Step(promote_to_float32(scores), State(state.position + 1, layers), weights)

    @property
    def length_limits(self) -> LengthLimits:
        """The largest number of cells of a grid, and the longest caption."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """The layers of the decoder; see `Objective.layers`."""
        return [*self.decoder]

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder, the word vectors, then the layers; see `Objective.layer_groups`."""
        words: list[nn.Module] = [self.annotation_norm, self.words, self.positions]
        return [*self.encoder.layer_groups(), words, *([block] for block in self.decoder)]

    def attention_layers(self) -> dict[str, Any]:
        """Every attention by the name of its weights."""
        named: dict[str, Any] = add_encoder_prefix(self.encoder.attention_layers())
        for i, block in enumerate(self.decoder):
            named |= {f"decoder.{i}": block.attention, f"cross.{i}": block.cross}
        return named

    def attention_places(self) -> dict[str, Place]:
        """The names of `attention_layers` -> "encoder", "decoder" or "cross"."""
        places: dict[str, Any] = {name: name.partition(".")[0] for name in self.attention_layers()}
        return places

    def _embed(self, tokens: Int[Tensor, "B T"], begin: int = 0) -> Float[Tensor, "B T M"]:
        x = self.positions(self.words(tokens) * self.config.width**0.5, begin)
        return dropout(x, self.config.dropout, self.training)

    def _initialise_tables(self) -> None:
        for table in (self.words, self.output):
            nn.init.normal_(table.weight, std=self.config.width**-0.5)
        nn.init.zeros_(self.output.bias)
