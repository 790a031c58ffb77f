"""The recurrent encoder: it turns every token of a source into an annotation."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv import masks
from qkv.errors import BadMask
from qkv.symbols import PAD
from qkv.tracing import find_autocast_dtype, require


class EncodedSource(NamedTuple):
    """The output of the encoder.

    Args:
        annotations: [B,S,n], or [B,S,2n] of both directions.
        final_state: [B,n] or [B,2n], the state after the last token, and of the backward direction after the
            first.
        keep: [B,S] bool, True at real tokens.
    """

    annotations: Float[Tensor, "B S A"]
    final_state: Float[Tensor, "B A"]
    keep: Bool[Tensor, "B S"]


class RecurrentEncoder(nn.Module):
    """h_j = [h_fwd_j; h_bwd_j], or the forward half alone.  Bahdanau et al. 2015, section 3.2.

    Args:
        network: The recurrent network, of one direction or both.
        words: The embedding of the source.
        dropout: The dropout of word vectors.
    """

    def __init__(self, network: nn.GRU | nn.LSTM, words: nn.Embedding, dropout: nn.Dropout) -> None:
        super().__init__()
        self.network, self.words, self.dropout = network, words, dropout
        self.width = network.hidden_size * (2 if network.bidirectional else 1)

    def recurrent_weights(self) -> list[nn.Parameter]:
        """List the matrices that multiply the previous state.

        Returns:
            One per layer and direction.
        """
        return [weights[1] for weights in self.network.all_weights]

    def input_biases(self) -> list[nn.Parameter]:
        """List the biases of the input gates.

        Returns:
            One per layer and direction.
        """
        return [weights[2] for weights in self.network.all_weights]

    def forward(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> EncodedSource:
        """Encode a source.

        Args:
            source: Token ids [B,S], padded on the right.
            keep: [B,S] bool, True at real tokens.

        Returns:
            The annotations and the final state.

        Raises:
            BadMask: There is padding before a real token.
        """
        problem = "source_keep has a real token after padding: pad sources on the right only"
        require(keep[:, :-1] | ~keep[:, 1:], BadMask, problem)
        words = self.dropout(self.words(source.masked_fill(~keep, PAD)))
        lengths = masks.count_real_positions(keep).clamp(min=1)
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        out, state = self.network(packed)
        hidden = state[0] if isinstance(state, tuple) else state
        annotations, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        if dtype := find_autocast_dtype(source):  # cast once, not in every step of the decoder
            annotations = annotations.to(dtype)
        last_layer = hidden[-2:] if self.network.bidirectional else hidden[-1:]
        return EncodedSource(annotations, torch.cat(list(last_layer), -1), keep)
