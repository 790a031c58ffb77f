"""The recurrent decoders: Cho's without attention, Bahdanau's and Luong's with it.

Bahdanau et al. 2015    c_i = attention(s_{i-1}, h);  s_i = cell([E y_{i-1}; c_i], s_{i-1})
                        out_i = maxout([s_i; E y_{i-1}; c_i])
Cho et al. 2014         the same with one summary of the source for every c_i
Luong et al. 2015       s_i = cell([E y_{i-1}; out_{i-1}], s_{i-1});  c_i = attention(s_i, h)
                        out_i = tanh(W_c [c_i; s_i])               out_{i-1} only with input feeding

The query is the previous state in Bahdanau's decoder, and the new state in Luong's.  Bahdanau's read-out
uses the new state s_i, like Cho et al. (Bahdanau's appendix uses s_{i-1}); the gates are those of
torch.nn.GRU, not of the appendix.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.recurrent_cell import RecurrentCell
from qkv.model.recurrent_encoder import EncodedSource
from qkv.shapes import Attended
from qkv.spec import AttentionSpec

Words = Float[Tensor, "B T e"]


class DecoderState(NamedTuple):
    """The state between two steps.

    Args:
        cell: The tensors of the cell [B,n], the hidden state first.
        source: The state of the attention, or the fixed context.
        out: [B,n], the last output of Luong's decoder, for input feeding; None without it.
    """

    cell: tuple[Tensor, ...]
    source: Any
    out: Tensor | None = None


class DecoderOutput(NamedTuple):
    """The output of a decoder for T words.

    Args:
        out: [B,T,width].
        attended: The results of the attention; None without attention.
        state: The state after the last word.
    """

    out: Tensor
    attended: Attended | None
    state: DecoderState


class FixedContextDecoder(nn.Module):
    """A decoder without attention: one fixed context for all steps.  Cho et al. 2014, section 2.2.

    Args:
        kind: "gru" or "lstm".
        words: Width of a word vector.
        hidden: n, the width of the state.
        annotation: Width of the final state of the encoder.
    """

    def __init__(self, kind: str, words: int, hidden: int, annotation: int) -> None:
        super().__init__()
        self.attention, self.width = None, words
        self.summary, self.first_state = nn.Linear(annotation, hidden), nn.Linear(hidden, hidden)
        self.cell, self.readout = (
            RecurrentCell(kind, words, hidden, hidden),
            _build_readout(words, hidden, hidden),
        )

    def start(self, source: EncodedSource, capture: bool) -> DecoderState:
        """Build the state before the first word.

        Args:
            source: The output of the encoder.
            capture: Not used: there are no weights.

        Returns:
            The state.
        """
        summary = self.summary(source.final_state).tanh()
        return DecoderState(self.cell.start(self.first_state(summary).tanh()), summary)

    def forward(self, words: Words, state: DecoderState) -> DecoderOutput:
        """Read T words one by one.

        Args:
            words: Word vectors [B,T,e].
            state: The state before the first of them.

        Returns:
            The read-outs [B,T,e], the results of the attention, and the state after the last word.
        """
        gates = self.cell.from_word(words) + self.cell.from_context(state.source)[:, None]
        states, cell = [], state.cell
        for gate in gates.unbind(1):
            cell = self.cell(gate, None, cell)
            states.append(cell[0])
        contexts = state.source[:, None].expand(-1, words.shape[1], -1)
        features = torch.cat([torch.stack(states, 1), words, contexts], -1)
        out = torch.maximum(*self.readout(features).chunk(2, -1))
        return DecoderOutput(out, None, state._replace(cell=cell))


class BahdanauDecoder(nn.Module):
    """A decoder whose query is its previous state; the cell reads the context and the word.

    Bahdanau et al. 2015, section 3.1.

    Args:
        kind: "gru" or "lstm".
        words: Width of a word vector.
        hidden: n, the width of the state.
        spec: The attention.
    """

    def __init__(self, kind: str, words: int, hidden: int, spec: AttentionSpec) -> None:
        super().__init__()
        context = find_context_width(spec)
        self.attention, self.width = Attention.from_spec(spec), words
        self.first_state, self.cell = nn.Linear(hidden, hidden), RecurrentCell(kind, words, context, hidden)
        self.readout = _build_readout(words, hidden, context)

    def start(self, source: EncodedSource, capture: bool) -> DecoderState:
        """Build the state before the first word from the final state of the backward direction.

        Args:
            source: The output of the encoder.
            capture: Whether steps will be asked for weights.

        Returns:
            The state.
        """
        return _start_with_attention(self, source, capture)

    def forward(self, words: Words, state: DecoderState) -> DecoderOutput:
        """Read T words one by one.

        Args:
            words: Word vectors [B,T,e].
            state: The state before the first of them.

        Returns:
            The read-outs [B,T,e], the results of the attention, and the state after the last word.
        """
        cell, memory, states, results = state.cell, state.source, [], []
        for gate in self.cell.from_word(words).unbind(1):
            attended, memory = self.attention.attend_step(cell[0], memory)
            cell = self.cell(gate, attended.out, cell)
            states.append(cell[0])
            results.append(attended)
        attended = stack_steps(results)
        features = torch.cat([torch.stack(states, 1), words, attended.out], -1)
        out = torch.maximum(*self.readout(features).chunk(2, -1))
        return DecoderOutput(out, attended, DecoderState(cell, memory))


class LuongDecoder(nn.Module):
    """A decoder whose query is its new state, which is then combined with the context.

    Luong et al. 2015, sections 3 and 3.3.

    Args:
        kind: "gru" or "lstm".
        words: Width of a word vector.
        hidden: n, the width of the state.
        spec: The attention.
        feeding: Whether the cell also reads the last output (input feeding).
    """

    def __init__(self, kind: str, words: int, hidden: int, spec: AttentionSpec, feeding: bool) -> None:
        super().__init__()
        self.attention, self.width, self.feeding = Attention.from_spec(spec), hidden, feeding
        self.first_state = nn.Linear(hidden, hidden)
        self.cell = RecurrentCell(kind, words, hidden if feeding else 0, hidden)
        self.join = nn.Linear(find_context_width(spec) + hidden, hidden, bias=False)

    def start(self, source: EncodedSource, capture: bool) -> DecoderState:
        """Build the state before the first word; the first fed output is zero.

        Args:
            source: The output of the encoder.
            capture: Whether steps will be asked for weights.

        Returns:
            The state.
        """
        state = _start_with_attention(self, source, capture)
        return state._replace(out=torch.zeros_like(state.cell[0])) if self.feeding else state

    def forward(self, words: Words, state: DecoderState) -> DecoderOutput:
        """Read T words; without feeding, one call of the attention serves all T states.

        Args:
            words: Word vectors [B,T,e].
            state: The state before the first of them.

        Returns:
            The outputs [B,T,n], the results of the attention, and the state after the last word.
        """
        gates = self.cell.from_word(words).unbind(1)
        decode = self._decode_with_feeding if self.feeding else self._decode_without_feeding
        return decode(gates, state)

    def _decode_with_feeding(self, gates: tuple[Tensor, ...], state: DecoderState) -> DecoderOutput:
        cell, memory, out = state
        outs, results = [], []
        for gate in gates:
            cell = self.cell(gate, out, cell)
            attended, memory = self.attention.attend_step(cell[0], memory)
            out = self._combine(attended.out, cell[0])
            outs.append(out)
            results.append(attended)
        return DecoderOutput(torch.stack(outs, 1), stack_steps(results), DecoderState(cell, memory, out))

    def _decode_without_feeding(self, gates: tuple[Tensor, ...], state: DecoderState) -> DecoderOutput:
        cell, states = state.cell, []
        for gate in gates:
            cell = self.cell(gate, None, cell)
            states.append(cell[0])
        queries = torch.stack(states, 1)
        attended, memory = self.attention.attend_step(queries, state.source)
        return DecoderOutput(self._combine(attended.out, queries), attended, DecoderState(cell, memory))

    def _combine(self, context: Tensor, state: Tensor) -> Tensor:
        return self.join(torch.cat([context, state], -1)).tanh().to(state.dtype)


def _start_with_attention(
    decoder: BahdanauDecoder | LuongDecoder, source: EncodedSource, capture: bool
) -> DecoderState:
    hidden = decoder.first_state.in_features
    first = decoder.first_state(source.final_state[:, -hidden:]).tanh()
    memory = decoder.attention.start(source.annotations, keep=source.keep, return_weights=capture)
    return DecoderState(decoder.cell.start(first), memory)


def find_context_width(spec: AttentionSpec) -> int:
    """Find the width of what a decoder's attention returns.

    Args:
        spec: The completed spec.

    Returns:
        The width.
    """
    return spec.width if spec.project else spec.memory_width


def _build_readout(words: int, hidden: int, context: int) -> nn.Linear:
    return nn.Linear(hidden + words + context, 2 * words)


def stack_steps(results: list[Attended]) -> Attended:
    """Build one result of T queries from the results of T single steps.

    Args:
        results: T results, with out [B,M].

    Returns:
        The result, with out [B,T,M].
    """
    out = torch.stack([attended.out for attended in results], 1)
    weights = [attended.weights for attended in results if attended.weights is not None]
    log_probs = [attended.log_prob for attended in results if attended.log_prob is not None]
    return Attended(
        out, torch.cat(weights, 2) if weights else None, torch.cat(log_probs, 2) if log_probs else None
    )
