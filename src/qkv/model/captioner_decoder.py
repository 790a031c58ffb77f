"""The decoder of Show, Attend and Tell, at step t with annotations a, state h and word vectors E y.

    h_0 = tanh(W_h mean(a)),  c_0 = tanh(W_c mean(a))
    z_t = beta_t attention(h_{t-1}, a),  beta_t = sigmoid(w h_{t-1} + b)
    h_t, c_t = cell([E y_{t-1}; z_t], h_{t-1}, c_{t-1})
    out_t = tanh(E y_{t-1} + L [h_t; z_t])

Xu et al. 2015, sections 3.1.2 and 4.2.1.  The tanh of the deep output is in their code, not in their eq. 7.
"""

from typing import Any

import torch
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.recurrent_cell import RecurrentCell
from qkv.model.recurrent_decoders import (
    DecoderOutput,
    DecoderState,
    Words,
    find_context_width,
    stack_steps,
)
from qkv.model.vision import Annotations
from qkv.shapes import Attended
from qkv.spec import AttentionSpec


class GatedContextDecoder(nn.Module):
    """A decoder that starts from the mean annotation, and scales its context by a gate.  Xu et al. 2015.

    Args:
        kind: "gru" or "lstm".
        words: width of a word vector.
        hidden: n, the width of the state.
        annotation: width of an annotation.
        spec: the attention; None: the mean annotation is the context of every step.
    """

    def __init__(
        self, kind: str, words: int, hidden: int, annotation: int, spec: AttentionSpec | None
    ) -> None:
        super().__init__()
        context = annotation if spec is None else find_context_width(spec)
        self.attention = None if spec is None else Attention.from_spec(spec)
        self.hidden, self.width = hidden, words
        self.first_state = nn.Linear(annotation, hidden * (2 if kind == "lstm" else 1))
        self.cell = RecurrentCell(kind, words, context, hidden)
        self.gate = nn.Linear(hidden, 1)
        self.readout = nn.Linear(hidden + context, words)

    def start(self, grid: Annotations, capture: bool) -> DecoderState:
        """The state before the first word.

        Args:
            grid: the annotations.
            capture: whether steps will be asked for weights.
        """
        mean = grid.vectors.mean(1)
        cell = self.first_state(mean).tanh().split(self.hidden, -1)
        if self.attention is None:
            return DecoderState(cell, mean)
        return DecoderState(cell, self.attention.start(grid.vectors, return_weights=capture))

    def forward(self, words: Words, state: DecoderState) -> DecoderOutput:
        """Read T words one by one.

        Args:
            words: word vectors [B,T,e].
            state: the state before the first of them.

        Returns:
            The deep output [B,T,e] before the output layer, the results of the attention, and the state after
            the last word.
        """
        cell, source = state.cell, state.source
        features: list[Tensor] = []
        results: list[Attended] = []
        for gates in self.cell.from_word(words).unbind(1):
            context, source = self._attend(cell[0], source, results)
            context = self.gate(cell[0]).sigmoid() * context
            cell = self.cell(gates, context, cell)
            features.append(torch.cat([cell[0], context], -1))
        out = (words + self.readout(torch.stack(features, 1))).tanh()
        return DecoderOutput(out, stack_steps(results) if results else None, DecoderState(cell, source))

    def _attend(self, query: Tensor, source: Any, results: list[Attended]) -> tuple[Tensor, Any]:
        """The context, and the state of the attention after it; the result is added to `results`."""
        if self.attention is None:
            return source, source
        attended, source = self.attention.attend_step(query, source)
        results.append(attended)
        return attended.out, source
