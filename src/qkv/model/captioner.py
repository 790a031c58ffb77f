"""A captioner with a recurrent decoder (Xu et al. 2015), with any attention to the grid or none."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.kernel.masking import promote_to_float32
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.captioner_config import RecurrentCaptionerConfig, TransformerCaptionerConfig
from qkv.model.captioner_decoder import GatedContextDecoder
from qkv.model.captioner_encoder import add_encoder_prefix, build_picture_encoder, get_annotation_width
from qkv.model.dropout import dropout
from qkv.model.length_limits import LengthLimits
from qkv.model.recurrent_cell import initialise_orthogonal
from qkv.model.recurrent_decoders import DecoderOutput, DecoderState
from qkv.model.spec_fields import Place
from qkv.model.stepper import Step
from qkv.model.transformer_captioner import TransformerCaptioner
from qkv.model.weight_tying import WeightTyingModule
from qkv.shapes import Attended

Pictures = Tensor  # [B,3,H,W]; [B,Y,X,C] where the encoder takes grids


class RecurrentCaptioner(WeightTyingModule):
    """Encoder, recurrent decoder with its attention, and output layer.

    Args:
        config: the sizes and parts.
        vocab: V, the number of tokens.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> from qkv.model.captioner_config import RecurrentCaptionerConfig
        >>> model = RecurrentCaptioner(RecurrentCaptionerConfig(embedding=8, hidden=16), vocab=30)
        >>> pictures, tokens = torch.zeros(1, 3, 16, 24), torch.tensor([[2, 7, 9]])
        >>> hidden, attended = model.forward_with_weights(pictures, tokens)
        >>> model.output(hidden).shape, attended["cross.0"].weights.shape
        (torch.Size([1, 3, 30]), torch.Size([1, 1, 3, 24]))
    """

    def __init__(
        self,
        config: RecurrentCaptionerConfig,
        vocab: int,
        mean: tuple[float, ...] = (0.5,) * 3,
        sd: tuple[float, ...] = (0.25,) * 3,
    ) -> None:
        super().__init__()
        self.config = config
        annotation = get_annotation_width(config.encoder)
        self.encoder: Any = build_picture_encoder(config.encoder, mean, sd)
        self.words = nn.Embedding(vocab, config.embedding)
        self.decoder = GatedContextDecoder(
            config.cell, config.embedding, config.hidden, annotation, config.complete_spec()
        )
        self.output = nn.Linear(config.embedding, vocab)
        _initialise(self)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output layer share the weight of the word vectors, where `tie` is set."""
        if self.config.tie:
            self.output.weight = self.words.weight

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        _initialise(self)

    def forward(self, pictures: Pictures, target_in: Int[Tensor, "B T"]) -> Float[Tensor, "B T e"]:
        """The deep output for all positions of known captions (teacher forcing); `output` scores it.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            target_in: token ids, the begin symbol first, padded on the right.
        """
        return self._decode(target_in, self.start(pictures)).out

    def forward_with_weights(
        self, pictures: Pictures, target_in: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T e"], dict[str, Attended]]:
        """`forward`, and what every attention did.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            target_in: token ids, the begin symbol first, padded on the right.

        Returns:
            The deep output, and "cross.0" -> the attention to the grid, with "encoder." before the names of
            the encoder's.
        """
        grid, attended, _ = self.encoder.forward_with_weights(pictures)
        output = self._decode(target_in, self.decoder.start(grid, capture=True))
        cross = {} if output.attended is None else {"cross.0": output.attended}
        return output.out, add_encoder_prefix(attended) | cross

    def start(self, pictures: Pictures, *, capture: bool = False) -> DecoderState:
        """The state before the first token.

        Args:
            pictures: [B,3,H,W]; where the encoder takes grids, [B,Y,X,C].
            capture: whether steps will be asked for weights.
        """
        return self.decoder.start(self.encoder(pictures), capture)

    def step(self, tokens: Int[Tensor, "B"], state: DecoderState, *, capture: bool = False) -> Step:
        """Read the last token of every row and score the next one, in float32 at least.

        Args:
            tokens: the begin symbol first.
            state: the state before.
            capture: whether to return weights.

        Returns:
            Scores [B,V], the state after the token, and weights "cross.0" -> [B,H,L].
        """
        out, attended, state = self._decode(tokens[:, None], state)
        scores = self.output(out[:, 0])
        weights = {}
        if capture and attended is not None and attended.weights is not None:
            weights["cross.0"] = attended.weights[:, :, 0]
        return Step(promote_to_float32(scores), state, weights)

    @property
    def length_limits(self) -> LengthLimits:
        """The largest number of cells of a grid; a caption has no limit."""
        return self.config.length_limits

    def layers(self) -> list[nn.Module]:
        """No layers: the cell is called many times; see `Objective.layers`."""
        return []

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder, then the decoder; see `Objective.layer_groups`."""
        return [*self.encoder.layer_groups(), [self.words, self.decoder]]

    def attention_layers(self) -> dict[str, Any]:
        """Every attention by the name of its weights."""
        cross = {} if self.decoder.attention is None else {"cross.0": self.decoder.attention}
        return add_encoder_prefix(self.encoder.attention_layers()) | cross

    def attention_places(self) -> dict[str, Place]:
        """The names of `attention_layers` -> "encoder" or "cross"."""
        return {name: "cross" if name == "cross.0" else "encoder" for name in self.attention_layers()}

    def _decode(self, target_in: Tensor, state: DecoderState) -> DecoderOutput:
        rate = self.config.dropout
        output = self.decoder(dropout(self.words(target_in), rate, self.training), state)
        return output._replace(out=dropout(output.out, rate, self.training))


def build_captioner(
    config: RecurrentCaptionerConfig | TransformerCaptionerConfig,
    vocab: int,
    mean: tuple[float, ...] = (0.5,) * 3,
    sd: tuple[float, ...] = (0.25,) * 3,
) -> RecurrentCaptioner | TransformerCaptioner:
    """The captioner of a config, with random weights.

    Args:
        config: which captioner, and its sizes.
        vocab: V, the number of tokens.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.
    """
    if isinstance(config, TransformerCaptionerConfig):
        return TransformerCaptioner(config, vocab, mean, sd)
    return RecurrentCaptioner(config, vocab, mean, sd)


@torch.no_grad()
def _initialise(model: RecurrentCaptioner) -> None:
    """Orthogonal recurrent matrices, Xavier for the others; the forget gates of an LSTM start open."""
    decoder, hidden = model.decoder, model.config.hidden
    nn.init.normal_(model.words.weight, std=model.config.embedding**-0.5)
    for linear in (decoder.first_state, decoder.gate, decoder.readout, model.output):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    for linear in (decoder.cell.from_word, decoder.cell.from_context):
        for gate in linear.weight.split(hidden):
            nn.init.xavier_uniform_(gate)
    for gate in decoder.cell.from_state.weight.split(hidden):
        initialise_orthogonal(gate)
    for linear in (decoder.cell.from_word, decoder.cell.from_state):
        nn.init.zeros_(linear.bias)
    if model.config.cell == "lstm":
        decoder.cell.from_word.bias[hidden : 2 * hidden] = 1.0  # the forget gate
