"""The recurrent decoders: Cho's without attention, Bahdanau's and Luong's with it.

Bahdanau et al. 2015    c_i = attention(s_{i-1}, h);  s_i = cell([E y_{i-1}; c_i], s_{i-1})
                        out_i = maxout([s_i; E y_{i-1}; c_i])
Cho et al. 2014         the same with one summary of the source for every c_i
Luong et al. 2015       s_i = cell([E y_{i-1}; out_{i-1}], s_{i-1});  c_i = attention(s_i, h)
                        out_i = tanh(W_c [c_i; s_i])               out_{i-1} only with input feeding

Bahdanau's query is the previous state, Luong's the new one.  Bahdanau's read-out takes the new state s_i, as
Cho et al. do (Bahdanau's appendix takes s_{i-1}); the gates are those of torch.nn.GRU, not of the appendix.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.recurrent_cell import Cell
from qkv.model.recurrent_encoder import Annotated
from qkv.shapes import Attended
from qkv.spec import AttentionSpec

Words = Float[Tensor, "B T e"]


class DecoderState(NamedTuple):
    """Between two steps.

    cell: the cell's tensors [B,n], its own state first.  source: the attention's state, or the summary.
    out: [B,n], Luong's last output, to be fed to the next step; None where nothing is fed.
    """

    cell: tuple[Tensor, ...]
    source: Any
    out: Tensor | None = None


class Decoded(NamedTuple):
    """What a decoder made of T words: out [B,T,width], where it looked (None: nowhere), the state after."""

    out: Tensor
    looked: Attended | None
    state: DecoderState


class PlainDecoder(nn.Module):
    """One fixed summary of the source, and no attention.  Cho et al. 2014, section 2.2."""

    def __init__(self, kind: str, words: int, hidden: int, annotation: int) -> None:
        super().__init__()
        self.attention, self.width = None, words
        self.summary, self.first_state = nn.Linear(annotation, hidden), nn.Linear(hidden, hidden)
        self.cell, self.readout = Cell(kind, words, hidden, hidden), _maxout(words, hidden, hidden)

    def start(self, source: Annotated, remember: bool) -> DecoderState:
        """The state before the first word."""
        summary = self.summary(source.last).tanh()
        return DecoderState(self.cell.start(self.first_state(summary).tanh()), summary)

    def forward(self, words: Words, state: DecoderState) -> Decoded:
        """Read T words one after the other."""
        gates = self.cell.from_word(words) + self.cell.from_context(state.source)[:, None]
        states, cell = [], state.cell
        for gate in gates.unbind(1):
            cell = self.cell(gate, None, cell)
            states.append(cell[0])
        contexts = state.source[:, None].expand(-1, words.shape[1], -1)
        known = torch.cat([torch.stack(states, 1), words, contexts], -1)
        return Decoded(torch.maximum(*self.readout(known).chunk(2, -1)), None, state._replace(cell=cell))


class BahdanauDecoder(nn.Module):
    """Asks with its previous state, and reads what it finds together with the word."""

    def __init__(self, kind: str, words: int, hidden: int, spec: AttentionSpec) -> None:
        super().__init__()
        context = _context(spec)
        self.attention, self.width = Attention.from_spec(spec), words
        self.first_state, self.cell = nn.Linear(hidden, hidden), Cell(kind, words, context, hidden)
        self.readout = _maxout(words, hidden, context)

    def start(self, source: Annotated, remember: bool) -> DecoderState:
        """The state before the first word, made of the last state of the direction that ends there."""
        return _start(self, source, remember)

    def forward(self, words: Words, state: DecoderState) -> Decoded:
        """Read T words one after the other."""
        cell, memory, states, looks = state.cell, state.source, [], []
        for gate in self.cell.from_word(words).unbind(1):
            look, memory = self.attention.attend_step(cell[0], memory)
            cell = self.cell(gate, look.out, cell)
            states.append(cell[0])
            looks.append(look)
        looked = _joined(looks)
        known = torch.cat([torch.stack(states, 1), words, looked.out], -1)
        return Decoded(torch.maximum(*self.readout(known).chunk(2, -1)), looked, DecoderState(cell, memory))


class LuongDecoder(nn.Module):
    """Asks with its new state, and joins what it finds with it; `feeding` gives the result to the next step.

    Luong et al. 2015, sections 3 and 3.3.
    """

    def __init__(self, kind: str, words: int, hidden: int, spec: AttentionSpec, feeding: bool) -> None:
        super().__init__()
        self.attention, self.width, self.feeding = Attention.from_spec(spec), hidden, feeding
        self.first_state = nn.Linear(hidden, hidden)
        self.cell = Cell(kind, words, hidden if feeding else 0, hidden)
        self.join = nn.Linear(_context(spec) + hidden, hidden, bias=False)

    def start(self, source: Annotated, remember: bool) -> DecoderState:
        """The state before the first word; what is fed first is zero."""
        state = _start(self, source, remember)
        return state._replace(out=torch.zeros_like(state.cell[0])) if self.feeding else state

    def forward(self, words: Words, state: DecoderState) -> Decoded:
        """Read T words; without feeding, the attention reads all T states at once."""
        gates = self.cell.from_word(words).unbind(1)
        return self._fed(gates, state) if self.feeding else self._unfed(gates, state)

    def _fed(self, gates: tuple[Tensor, ...], state: DecoderState) -> Decoded:
        cell, memory, out = state
        outs, looks = [], []
        for gate in gates:
            cell = self.cell(gate, out, cell)
            look, memory = self.attention.attend_step(cell[0], memory)
            out = self._join(look.out, cell[0])
            outs.append(out)
            looks.append(look)
        return Decoded(torch.stack(outs, 1), _joined(looks), DecoderState(cell, memory, out))

    def _unfed(self, gates: tuple[Tensor, ...], state: DecoderState) -> Decoded:
        cell, states = state.cell, []
        for gate in gates:
            cell = self.cell(gate, None, cell)
            states.append(cell[0])
        own = torch.stack(states, 1)
        looked, memory = self.attention.attend_step(own, state.source)
        return Decoded(self._join(looked.out, own), looked, DecoderState(cell, memory))

    def _join(self, context: Tensor, state: Tensor) -> Tensor:
        return self.join(torch.cat([context, state], -1)).tanh().to(state.dtype)


def _start(decoder: BahdanauDecoder | LuongDecoder, source: Annotated, remember: bool) -> DecoderState:
    hidden = decoder.first_state.in_features
    first = decoder.first_state(source.last[:, -hidden:]).tanh()
    memory = decoder.attention.start(source.annotations, keep=source.keep, remember=remember)
    return DecoderState(decoder.cell.start(first), memory)


def _context(spec: AttentionSpec) -> int:
    return spec.width if spec.project else spec.d_memory or spec.width


def _maxout(words: int, hidden: int, context: int) -> nn.Linear:
    return nn.Linear(hidden + words + context, 2 * words)


def _joined(looks: list[Attended]) -> Attended:
    """Looks [B,·] of single steps as one of T steps."""
    out = torch.stack([look.out for look in looks], 1)
    weights = [look.weights for look in looks if look.weights is not None]
    log_probs = [look.log_prob for look in looks if look.log_prob is not None]
    return Attended(
        out, torch.cat(weights, 2) if weights else None, torch.cat(log_probs, 2) if log_probs else None
    )
