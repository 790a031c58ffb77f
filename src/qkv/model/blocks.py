"""The layers of a Transformer: attention and a feed-forward network, with residuals and normalisation."""

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qkv.layer import Attention
from qkv.model.dropout import dropout
from qkv.shapes import Attended
from qkv.spec import AttentionSpec

Hidden = Float[Tensor, "B N M"]
Memory = Float[Tensor, "B S M2"]


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W1 + b1) W2 + b2.  Vaswani et al. 2017, eq. 2.

    Args:
        width: M, the width of input and output.
        inner: The width of the hidden layer.
        dropout: Probability with which hidden units are dropped in training.
    """

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.narrow, self.dropout = nn.Linear(width, inner), nn.Linear(inner, width), dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both layers at random."""
        for linear in (self.widen, self.narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Hidden) -> Hidden:
        """Apply the network to every position.

        Args:
            x: [B,N,M].

        Returns:
            [B,N,M].
        """
        return self.narrow(dropout(self.widen(x).relu_(), self.dropout, self.training))


class Residual(nn.Module):
    """The residual connection of a sublayer f: x + f(norm(x)) with pre-norm, norm(x + f(x)) with post-norm.

    Args:
        width: M.
        dropout: Probability with which elements of f(x) are dropped in training.
        pre: Whether normalisation comes before the sublayer.
    """

    def __init__(self, width: int, dropout: float, pre: bool) -> None:
        super().__init__()
        self.norm, self.dropout, self.pre = nn.LayerNorm(width), dropout, pre

    def prepare_input(self, x: Hidden) -> Hidden:
        """Compute the input of the sublayer.

        Args:
            x: The residual stream [B,N,M].

        Returns:
            [B,N,M].
        """
        return self.norm(x) if self.pre else x

    def add(self, x: Hidden, output: Hidden) -> Hidden:
        """Add the output of the sublayer to the residual stream.

        Args:
            x: The residual stream before the sublayer, [B,N,M].
            output: The output of the sublayer, [B,N,M].

        Returns:
            The residual stream after the sublayer, [B,N,M].
        """
        total = x + dropout(output, self.dropout, self.training)
        return total if self.pre else self.norm(total)


class EncoderBlock(nn.Module):
    """A layer of the encoder: self-attention, then the feed-forward network.

    Args:
        spec: The self-attention.
        inner: The width of the hidden layer of the feed-forward network.
        dropout: Probability of dropout.
        pre: Whether normalisation comes before the sublayers.
    """

    def __init__(self, spec: AttentionSpec, inner: int, dropout: float, pre: bool) -> None:
        super().__init__()
        width = spec.width
        self.attention, self.around_attention = spec.build(), Residual(width, dropout, pre)
        self.feed, self.around_feed = FeedForward(width, inner, dropout), Residual(width, dropout, pre)

    def forward(self, x: Hidden, keep: Tensor, capture: bool = False) -> tuple[Hidden, Attended]:
        """Compute the output of the layer.

        Args:
            x: [B,S,M].
            keep: [B,S] bool, True at real tokens.
            capture: Whether to return the weights [B,H,S,S].

        Returns:
            The output [B,S,M], and the result of the attention.
        """
        attended = _attend(self.attention, self.around_attention.prepare_input(x), None, keep, capture)
        x = self.around_attention.add(x, attended.out)
        return _apply_feed_forward(self, x), attended


class DecoderBlock(nn.Module):
    """A layer of the decoder: causal self-attention, attention to the memory, the feed-forward network.

    Args:
        self_spec: The self-attention.
        cross_spec: The attention to the memory.
        inner: The width of the hidden layer of the feed-forward network.
        dropout: Probability of dropout.
        pre: Whether normalisation comes before the sublayers.
    """

    def __init__(
        self, self_spec: AttentionSpec, cross_spec: AttentionSpec, inner: int, dropout: float, pre: bool
    ) -> None:
        super().__init__()
        width = self_spec.width
        self.attention, self.around_attention = self_spec.build(), Residual(width, dropout, pre)
        self.cross, self.around_cross = cross_spec.build(), Residual(width, dropout, pre)
        self.feed, self.around_feed = FeedForward(width, inner, dropout), Residual(width, dropout, pre)

    def forward(
        self, x: Hidden, memory: Memory, keep: Tensor | None, capture: bool = False
    ) -> tuple[Hidden, Attended, Attended]:
        """Compute the output of the layer for all positions of the target.

        Args:
            x: [B,T,M].
            memory: The output of the encoder, [B,S,M2].
            keep: [B,S] bool, True at real tokens of the memory; None keeps all.
            capture: Whether to return weights.

        Returns:
            The output [B,T,M], and the results of the self-attention and of the cross-attention.
        """
        attended = _attend(self.attention, self.around_attention.prepare_input(x), None, None, capture)
        x = self.around_attention.add(x, attended.out)
        cross = _attend(self.cross, self.around_cross.prepare_input(x), memory, keep, capture)
        x = self.around_cross.add(x, cross.out)
        return _apply_feed_forward(self, x), attended, cross

    def start(self, memory: Memory, keep: Tensor | None, capture: bool) -> tuple[Any, Any]:
        """Build the states of both attentions before the first token.

        Args:
            memory: The output of the encoder, [B,S,M2].
            keep: [B,S] bool, True at real tokens of the memory; None keeps all.
            capture: Whether steps will be asked for weights.

        Returns:
            The states of the self-attention and of the cross-attention.
        """
        self_state = self.attention.start(batch=memory.shape[0], return_weights=capture)
        return self_state, self.cross.start(memory, keep=keep, return_weights=capture)

    def step(self, x: Hidden, state: tuple[Any, Any]) -> tuple[Hidden, tuple[Any, Any], tuple[Any, Any]]:
        """Compute the output at the next position(s).

        Args:
            x: [B,t,M].
            state: The states of both attentions.

        Returns:
            The output [B,t,M], the states after it, and the weights of both attentions (None where the state
            was started without `capture`).
        """
        attended, self_state = self.attention.attend_step(self.around_attention.prepare_input(x), state[0])
        x = self.around_attention.add(x, attended.out)
        cross, cross_state = self.cross.attend_step(self.around_cross.prepare_input(x), state[1])
        x = self.around_cross.add(x, cross.out)
        return _apply_feed_forward(self, x), (self_state, cross_state), (attended.weights, cross.weights)


def build_decoder(config: Any, layers: int) -> nn.ModuleList:
    """The blocks of a decoder.

    Args:
        config: The config of the model: `complete_spec(place, layer)`, feedforward, dropout and norm.
        layers: The number of blocks.

    Returns:
        The blocks, a `DecoderBlock` each.
    """
    sizes = config.feedforward, config.dropout, config.norm == "pre"
    return nn.ModuleList(
        DecoderBlock(config.complete_spec("decoder", layer), config.complete_spec("cross", layer), *sizes)
        for layer in range(layers)
    )


def apply_decoder(
    blocks: Iterable[Any], x: Hidden, memory: Memory, keep: Tensor | None, capture: bool = False
) -> tuple[Hidden, dict[str, Attended]]:
    """Compute the output of a stack of decoder layers for all positions of the target.

    Args:
        blocks: The layers.
        x: [B,T,M].
        memory: The output of the encoder, [B,S,M2].
        keep: [B,S] bool, True at real tokens of the memory; None keeps all.
        capture: Whether to return the results of the attentions.

    Returns:
        The output [B,T,M], and "decoder.N" and "cross.N" -> the result of the attention.
    """
    captured: dict[str, Attended] = {}
    for i, block in enumerate(blocks):
        x, attended, cross = block(x, memory, keep, capture)
        if capture:
            captured |= {f"decoder.{i}": attended, f"cross.{i}": cross}
    return x, captured


def step_decoder(
    blocks: Iterable[Any], x: Hidden, states: Iterable[Any], capture: bool
) -> tuple[Hidden, tuple[Any, ...], dict[str, Tensor]]:
    """Compute the output of a stack of decoder layers at the next position.

    Args:
        blocks: The layers.
        x: [B,1,M].
        states: The state of every layer.
        capture: Whether to return weights.

    Returns:
        The output [B,1,M], the states after it, and weights "decoder.N" and "cross.N" -> [B,H,S].
    """
    after, captured = [], {}
    for i, (block, state) in enumerate(zip(blocks, states, strict=True)):
        x, next_state, (self_weights, cross_weights) = block.step(x, state)
        after.append(next_state)
        named = {f"decoder.{i}": self_weights, f"cross.{i}": cross_weights} if capture else {}
        captured |= {name: weights[:, :, 0] for name, weights in named.items() if weights is not None}
    return x, tuple(after), captured


def _apply_feed_forward(block: EncoderBlock | DecoderBlock, x: Hidden) -> Hidden:
    return block.around_feed.add(x, block.feed(block.around_feed.prepare_input(x)))


def _attend(
    attention: Attention, x: Hidden, memory: Memory | None, keep: Tensor | None, capture: bool
) -> Attended:
    if capture:
        return attention.attend(x, memory, keep=keep)
    return Attended(attention(x, memory, keep=keep), None)
