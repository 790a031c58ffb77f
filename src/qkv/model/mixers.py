"""Sequence mixers: the layer of a language model that lets positions exchange information.

Attention, recurrence and causal convolution share one interface, so that a model can be built with any of
them and they can be compared at the same work:

    out = mixer(x)                     all N positions at once, from an empty state
    out, state = mixer.extend(x, state)    the next positions of a longer sequence

Both are causal: position t of the output depends on the positions up to t alone.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.shapes import Attended
from qkv.spec import AttentionSpec

Hidden = Float[Tensor, "B N M"]


class SequenceMixer(nn.Module, ABC):
    """Base class of the mixers.  A state is a value with the batch first (see `qkv.state`)."""

    @abstractmethod
    def forward(self, x: Hidden) -> Hidden:
        """Mix all positions of x [B,N,M], starting from an empty state; returns [B,N,M]."""

    @abstractmethod
    def start(self, batch: int, *, return_weights: bool = False) -> Any:
        """The empty state of `batch` rows; `return_weights` keeps what attention weights need."""

    @abstractmethod
    def extend(self, x: Hidden, state: Any) -> tuple[Attended, Any]:
        """Mix the next positions x [B,N,M]; returns the output and the state after them.

        The weights are None for mixers without attention, and in states without `return_weights`.
        """

    def attend(self, x: Hidden) -> Attended:
        """The output of `forward` with its attention weights [B,H,N,N]; None without attention."""
        return Attended(self(x), None)


class AttentionMixer(SequenceMixer):
    """Causal self-attention of any kind.

    Args:
        spec: the attention, causal and with its widths set.
    """

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.attention: Attention = spec.build()

    def forward(self, x: Hidden) -> Hidden:
        """Attend within the N positions."""
        return self.attention(x)

    def attend(self, x: Hidden) -> Attended:
        """Attend within the N positions; returns the weights too."""
        return self.attention.attend(x)

    def start(self, batch: int, *, return_weights: bool = False) -> Any:
        """The empty cache, or the empty sums of a feature map."""
        return self.attention.start(batch=batch, return_weights=return_weights)

    def extend(self, x: Hidden, state: Any) -> tuple[Attended, Any]:
        """Attend from the next positions to them and to what the state holds."""
        return self.attention.attend_step(x, state)


class RecurrentMixer(SequenceMixer):
    """A GRU (Cho et al. 2014) or an LSTM (Hochreiter and Schmidhuber 1997) of one layer.

    Args:
        kind: "gru" or "lstm".
        width: M, the width of the input, the state and the output.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](width, width, batch_first=True)

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        self.cell.reset_parameters()

    def forward(self, x: Hidden) -> Hidden:
        """Run over the N positions from a state of zeros."""
        return self.cell(x)[0]

    def start(self, batch: int, *, return_weights: bool = False) -> tuple[Tensor, ...]:
        """States of zeros: (h,) for a GRU, (h, c) for an LSTM, each [B,M]."""
        zeros = self.cell.weight_hh_l0.new_zeros(batch, self.cell.hidden_size)
        return (zeros,) if self.cell.mode == "GRU" else (zeros, zeros)

    def extend(self, x: Hidden, state: tuple[Tensor, ...]) -> tuple[Attended, tuple[Tensor, ...]]:
        """Run over the next positions."""
        layered = tuple(part[None] for part in state)  # torch wants the layers first
        out, after = self.cell(x, layered[0] if len(layered) == 1 else layered)
        after = after if isinstance(after, tuple) else (after,)
        return Attended(out, None), tuple(part[0] for part in after)


class ConvolutionMixer(SequenceMixer):
    """A causal convolution over time between a gated input layer and an output layer.

        u = (x W_1 + b_1) ∘ sigmoid(x W_2 + b_2);   c_t = Σ_j w_j u_{t - j·dilation};   out = c W_3 + b_3

    The gate is that of Dauphin et al. 2017 (arXiv:1612.08083), eq. 1; with a depthwise convolution the
    layer is that of Wu et al. 2019 (arXiv:1901.10430), section 3.1, without their softmax over the kernel.

    Args:
        width: M, the width of the input and the output.
        kernel_size: positions that one output reads.
        dilation: distance between them, in positions.
        separable: one filter per channel (depthwise); otherwise every output channel reads all channels.
    """

    def __init__(self, width: int, kernel_size: int, dilation: int, separable: bool) -> None:
        super().__init__()
        self.past, self.dilation = (kernel_size - 1) * dilation, dilation
        self.to_gated, self.to_out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        groups = width if separable else 1
        self.convolution = nn.Conv1d(width, width, kernel_size, dilation=dilation, groups=groups)

    def forward(self, x: Hidden) -> Hidden:
        """Convolve the N positions; zeros stand before the first one."""
        return self._convolve(F.pad(self._gate(x), (self.past, 0)))

    def start(self, batch: int, *, return_weights: bool = False) -> Float[Tensor, "B M P"]:
        """The gated inputs before the first position: zeros."""
        return self.to_out.weight.new_zeros(batch, self.to_out.in_features, self.past)

    def extend(self, x: Hidden, state: Float[Tensor, "B M P"]) -> tuple[Attended, Tensor]:
        """Convolve the next positions, whose past is in the state."""
        padded = torch.cat([state, self._gate(x)], -1)
        return Attended(self._convolve(padded), None), padded[..., padded.shape[-1] - self.past :]

    def _gate(self, x: Hidden) -> Float[Tensor, "B M N"]:
        return F.glu(self.to_gated(x), -1).transpose(1, 2)

    def _convolve(self, padded: Float[Tensor, "B M P"]) -> Hidden:
        return self.to_out(self.convolution(padded).transpose(1, 2))
