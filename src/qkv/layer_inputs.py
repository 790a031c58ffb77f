"""Checks of the inputs of `Attention`, its decode states, and its initial weights."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from qkv import masks
from qkv.errors import BadMask, BadShape, IncompatibleParts


class SelfState(NamedTuple):
    """Decode state of causal self-attention: every step adds its keys and values.

    Args:
        core: The state of the evaluator.
    """

    core: Any


class MemoryState(NamedTuple):
    """Decode state of attention to a memory, which does not change between steps.

    Args:
        core: The state of the evaluator.
    """

    core: Any


def check_width(x: Tensor, width: int, name: str) -> None:
    """Check that an input is padded and has the expected width.

    Args:
        x: The input, [B,N,width].
        width: The expected size of the last dimension.
        name: The name of the argument, for the message.

    Raises:
        BadShape: It is a nested tensor, or has another shape.
    """
    if x.is_nested:
        raise BadShape(
            f"{name} is a nested tensor: pass it padded, {name}.to_padded_tensor(0.0), and mark its real "
            "positions with keep="
        )
    if x.dim() != 3 or x.shape[-1] != width:
        raise BadShape(f"{name} must be [batch, positions, {width}], got {tuple(x.shape)}")


def check_batch(x: Tensor, memory: Tensor) -> None:
    """Check that queries and memory have the same batch size.

    Args:
        x: [B,T,M].
        memory: [B,S,d_memory].

    Raises:
        BadShape: They differ.
    """
    if x.shape[0] != memory.shape[0]:
        raise BadShape(
            f"x and memory must have one batch size, got {x.shape[0]} and {memory.shape[0]}: "
            "repeat the rows of the smaller one"
        )


def check_state_batch(batch: int, state_batch: int) -> None:
    """Check that the input of a step has the batch size of the state.

    Args:
        batch: The batch size of the input.
        state_batch: The batch size of the state.

    Raises:
        BadShape: They differ.
    """
    if batch != state_batch:
        raise BadShape(
            f"x has batch size {batch}, the state {state_batch}: call start(batch={batch}), or select rows "
            "of the state with qkv.state.select_rows"
        )


def check_start(causal: bool, memory: Tensor | None, keep: Tensor | None) -> None:
    """Check the arguments of `Attention.start`.

    Args:
        causal: Whether the layer is causal.
        memory: The memory; None for self-attention.
        keep: The real positions of the memory.

    Raises:
        BadMask: There is a mask without a memory.
        IncompatibleParts: A causal layer got a memory, or a layer that is not causal got none.
    """
    if memory is None and keep is not None:
        raise BadMask(
            "start() got keep= without a memory, whose real positions it marks: pass keep= to each step "
            "instead"
        )
    if memory is not None and causal:
        raise IncompatibleParts(
            "start(memory) needs a layer with causal=False: in causal attention every step adds its own keys"
        )
    if memory is None and not causal:
        raise IncompatibleParts(
            "stepping through self-attention needs causal=True: without it every output depends on later "
            "inputs"
        )


def zero_padding(source: Tensor, keep: Tensor | None, width: int) -> Tensor:
    """Set the padded positions of keys and values to zero, so that their content cannot reach any output.

    Args:
        source: The input of the key and value projections, [B,S,width].
        keep: [B,S] bool, True at real positions; None where all are real.
        width: The expected width.

    Returns:
        The source, with zeros at padding.

    Raises:
        BadShape: The source has another shape.
        BadMask: `keep` is not boolean or has another shape.
    """
    if keep is None:
        return source
    check_width(source, width, "memory")
    masks.check_keep(keep, source)
    return masks.zero_keys(source, keep)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the last dimension into heads.

    Args:
        x: [B,N,H·D].
        heads: H.

    Returns:
        A view [B,H,N,D].
    """
    return x.view(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def initialise_projections(to_q: nn.Linear, to_kv: nn.Linear, to_out: nn.Linear) -> None:
    """Initialise the projections in place: Xavier-uniform weights, where keys and values count separately.

    Args:
        to_q: The projection of queries.
        to_kv: The projection of keys and values, stacked.
        to_out: The projection of the output.
    """
    for weight in (to_q.weight, *to_kv.weight.chunk(2), to_out.weight):
        nn.init.xavier_uniform_(weight.data)
    for linear in (to_q, to_kv, to_out):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def initialise_gate(gate: nn.Linear) -> None:
    """Initialise a forgetting gate in place: g = sigmoid(w·x + 3) averages over about twenty positions.

    Args:
        gate: The projection to one logit per head.
    """
    nn.init.xavier_uniform_(gate.weight)
    nn.init.constant_(gate.bias, 3.0)
