"""The recurrent encoder: a source sentence as one annotation a word."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv.errors import BadMask
from qkv.symbols import PAD
from qkv.tracing import require


class Annotated(NamedTuple):
    """A source that has been read.

    annotations: [B,S,n], or [B,S,2n] of both directions.  last: [B,n] or [B,2n], the state after the last
    word, and of the backward direction after the first.  keep: [B,S], the real words.
    """

    annotations: Float[Tensor, "B S A"]
    last: Float[Tensor, "B A"]
    keep: Bool[Tensor, "B S"]


class Encoder(nn.Module):
    """h_j = [h_fwd_j; h_bwd_j], or the forward half alone.  Bahdanau et al. 2015, section 3.2."""

    def __init__(self, network: nn.GRU | nn.LSTM, words: nn.Embedding, dropout: nn.Dropout) -> None:
        super().__init__()
        self.network, self.words, self.dropout = network, words, dropout
        self.width = network.hidden_size * (2 if network.bidirectional else 1)

    def forward(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> Annotated:
        """The annotations of a source padded on the right; BadMask for padding elsewhere."""
        problem = "source_keep has a real token after padding: pad sources on the right only"
        require(keep[:, :-1] | ~keep[:, 1:], BadMask, problem)
        words = self.dropout(self.words(source.masked_fill(~keep, PAD)))
        lengths = keep.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        out, last = self.network(packed)
        last = last[0] if isinstance(last, tuple) else last
        annotations, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        if torch.is_autocast_enabled(source.device.type):  # else every step of the decoder casts them anew
            annotations = annotations.to(torch.get_autocast_dtype(source.device.type))
        ends = last[-2:] if self.network.bidirectional else last[-1:]
        return Annotated(annotations, torch.cat(list(ends), -1), keep)
