"""Show, Attend and Tell for one picture, word by word, and its penalty, in float64."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from reference import loops


class CaptionLooped(NamedTuple):
    """scores [T,V] of the next word; weights [H,T,L], None without attention; gates [T]."""

    scores: Tensor
    weights: Tensor | None
    gates: Tensor


@torch.no_grad()
def show_attend_tell(model: Any, vectors: Tensor, tokens: list[int]) -> CaptionLooped:
    """What a `RecurrentCaptioner` with an LSTM should compute from annotations [L,D] and token ids."""
    decoder, units = model.decoder, model.config.hidden
    mean = vectors.double().sum(0) / len(vectors)
    first = _affine(decoder.first_state, mean).tanh()
    h, c = first[:units], first[units:]
    scores, weights, gates = [], [], []
    for token in tokens:
        word, context = model.words.weight[token].double(), mean
        if decoder.attention is not None:
            looked = loops.layer(decoder.attention, h[None, None], vectors[None], loops.Masks())
            context = looked.out[0, 0]
            weights.append(looked.weights[0, :, 0])
        gate = 1 / (1 + (-_affine(decoder.gate, h)).exp())
        context = gate * context
        sums = _affine(decoder.cell.from_word, word) + _affine(decoder.cell.from_state, h)
        sums = sums + decoder.cell.from_context.weight.double() @ context
        h, c = _lstm(sums, c, units)
        out = (word + _affine(decoder.readout, torch.cat([h, context]))).tanh()
        scores.append(_affine(model.output, out))
        gates.append(gate[0])
    return CaptionLooped(
        torch.stack(scores), torch.stack(weights, 1) if weights else None, torch.stack(gates)
    )


def doubly_stochastic(weights: Tensor, lengths: list[int]) -> float:
    """Σ over pictures and cells of (1 - Σ_t weight)², averaged over heads, of weights [B,H,T,L]."""
    total, heads = 0.0, weights.shape[1]
    for row, length in enumerate(lengths):
        for head in range(heads):
            for cell in range(weights.shape[3]):
                mass = sum(float(weights[row, head, t, cell]) for t in range(length))
                total += (1 - mass) ** 2 / heads
    return total


def _lstm(sums: Tensor, memory: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """The state and the memory after a step, unit by unit; `sums` has input, forget, new and output parts."""
    h, c = torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
    for unit in range(units):
        enter, forget, new, leave = (sums[part * units + unit] for part in range(4))
        c[unit] = forget.sigmoid() * memory[unit] + enter.sigmoid() * new.tanh()
        h[unit] = leave.sigmoid() * c[unit].tanh()
    return h, c


def _affine(linear: Any, x: Tensor) -> Tensor:
    return linear.weight.double() @ x + linear.bias.double()
