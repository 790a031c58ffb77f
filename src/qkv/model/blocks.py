"""The Transformer's layers: attention and a feed-forward net, each with its residual and normalisation."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.dropout import dropout
from qkv.shapes import Attended
from qkv.spec import AttentionSpec

Hidden = Float[Tensor, "B N M"]
Memory = Float[Tensor, "B S M"]


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2.  Vaswani et al. 2017, eq. 2."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.narrow, self.dropout = nn.Linear(width, inner), nn.Linear(inner, width), dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both layers anew."""
        for linear in (self.widen, self.narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Hidden) -> Hidden:
        """The same network at every position."""
        return self.narrow(dropout(self.widen(x).relu_(), self.dropout, self.training))


class Residual(nn.Module):
    """What surrounds a sublayer f: x + f(norm(x)) with pre-norm, norm(x + f(x)) with post-norm."""

    def __init__(self, width: int, dropout: float, pre: bool) -> None:
        super().__init__()
        self.norm, self.dropout, self.pre = nn.LayerNorm(width), dropout, pre

    def enter(self, x: Hidden) -> Hidden:
        """What the sublayer reads."""
        return self.norm(x) if self.pre else x

    def leave(self, x: Hidden, read: Hidden) -> Hidden:
        """x joined by what the sublayer made of it."""
        joined = x + dropout(read, self.dropout, self.training)
        return joined if self.pre else self.norm(joined)


class EncoderBlock(nn.Module):
    """Self-attention, then the feed-forward net."""

    def __init__(self, spec: AttentionSpec, inner: int, dropout: float, pre: bool) -> None:
        super().__init__()
        width = spec.width
        self.attention, self.around_attention = spec.build(), Residual(width, dropout, pre)
        self.feed, self.around_feed = FeedForward(width, inner, dropout), Residual(width, dropout, pre)

    def forward(self, x: Hidden, keep: Tensor, capture: bool = False) -> tuple[Hidden, Attended]:
        """The layer's output, and where it looked; with weights [B,H,S,S] where `capture` asks for them."""
        seen = _look(self.attention, self.around_attention.enter(x), None, keep, capture)
        x = self.around_attention.leave(x, seen.out)
        return _feed(self, x), seen


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the memory, then the feed-forward net."""

    def __init__(
        self, own: AttentionSpec, cross: AttentionSpec, inner: int, dropout: float, pre: bool
    ) -> None:
        super().__init__()
        width = own.width
        self.attention, self.around_attention = own.build(), Residual(width, dropout, pre)
        self.cross, self.around_cross = cross.build(), Residual(width, dropout, pre)
        self.feed, self.around_feed = FeedForward(width, inner, dropout), Residual(width, dropout, pre)

    def forward(
        self, x: Hidden, memory: Memory, keep: Tensor, capture: bool = False
    ) -> tuple[Hidden, Attended, Attended]:
        """The layer's output, and where it and its cross-attention looked."""
        own = _look(self.attention, self.around_attention.enter(x), None, None, capture)
        x = self.around_attention.leave(x, own.out)
        cross = _look(self.cross, self.around_cross.enter(x), memory, keep, capture)
        x = self.around_cross.leave(x, cross.out)
        return _feed(self, x), own, cross

    def start(self, memory: Memory, keep: Tensor, remember: bool) -> tuple[Any, Any]:
        """The states of both attentions before the first token."""
        own = self.attention.start(batch=memory.shape[0], remember=remember)
        return own, self.cross.start(memory, keep=keep, remember=remember)

    def step(self, x: Hidden, state: tuple[Any, Any]) -> tuple[Hidden, tuple[Any, Any], tuple[Any, Any]]:
        """The output at the next position, the states after it, and where both attentions looked."""
        own, own_state = self.attention.attend_step(self.around_attention.enter(x), state[0])
        x = self.around_attention.leave(x, own.out)
        cross, cross_state = self.cross.attend_step(self.around_cross.enter(x), state[1])
        x = self.around_cross.leave(x, cross.out)
        return _feed(self, x), (own_state, cross_state), (own.weights, cross.weights)


def _feed(block: EncoderBlock | DecoderBlock, x: Hidden) -> Hidden:
    return block.around_feed.leave(x, block.feed(block.around_feed.enter(x)))


def _look(
    attention: Attention, x: Hidden, memory: Memory | None, keep: Tensor | None, capture: bool
) -> Attended:
    if capture:
        return attention.attend(x, memory, keep=keep)
    return Attended(attention(x, memory, keep=keep), None)
