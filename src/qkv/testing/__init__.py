"""The contracts of attention as checks that anyone's layer can be put through, in a test or a notebook."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkv.errors import QKVError, UnknownName
from qkv.testing.contracts import CONTRACTS, Call, Subject


class ContractError(QKVError, AssertionError):
    """A layer breaks contracts; the message has a line for each, with what was found."""


class Checked(NamedTuple):
    """What `check` found.

    Args:
        passed: names of the contracts that hold.
        skipped: name -> why the contract does not apply to the layer.
    """

    passed: tuple[str, ...]
    skipped: dict[str, str]


def check(
    layer: Any,
    width: int,
    *,
    memory_width: int | None = None,
    causal: bool = False,
    normalised: bool = True,
    call: Call | None = None,
    contracts: Sequence[str] = tuple(CONTRACTS),
    seed: int = 0,
) -> Checked:
    """Put an attention layer through the contracts of this library, on a copy in float64 and evaluation mode.

    ========= ==========================================================================================
    shape     the output has the batch, length and dtype of the queries, and is finite
    repeat    the same input gives the same output
    batch     an example gives the same output alone and in a batch
    masks     masks that are not boolean are refused
    padding   nothing in padded positions, NaN and infinity included, changes a real output or a gradient
    empty     an example without any key gives 0 (or a bias) and finite gradients
    causal    no query depends on a later key, and the past does reach forward
    gradients `torch.autograd.gradcheck`
    weights   `layer.attend` gives the same output, and weights [B,H,T,S] that add up to 1 over allowed keys
    steps     `layer.start` and `layer.step`, in pieces of 1 and 2, give what the whole gives at once
    ========= ==========================================================================================

    Args:
        layer: the layer, a module or a function; it is not changed.
        width: width M of the queries [B,T,M].
        memory_width: width of a memory [B,S,·] to attend to; None for self-attention.
        causal: whether the layer claims to be causal.
        normalised: whether the weights of a query add up to 1.
        call: `call(layer, x, memory, keep)` -> output [B,T,·], for a layer with another signature than
            `layer(x, keep=keep)` and `layer(x, memory, keep=keep)`.
        contracts: names of the contracts to check.
        seed: of the random inputs.

    Returns:
        The contracts that hold, and those that do not apply.

    Raises:
        ContractError: a contract does not hold.
        UnknownName: there is no contract of this name.

    Example:
        >>> qkv.testing.check(qkv.Attention(8, heads=2, causal=True), 8, causal=True).passed[-1]
        'steps'
    """
    for name in contracts:
        if name not in CONTRACTS:
            raise UnknownName(f"there is no contract {name!r}: expected some of {', '.join(CONTRACTS)}")
    subject = Subject(_copy(layer), call or _call, width, memory_width, causal, normalised)
    skipped = {name: why for name in contracts if (why := CONTRACTS[name][0](subject))}
    faults = {name: _find_fault(name, subject, seed) for name in contracts if name not in skipped}
    if broken := [f"{name}: {fault}" for name, fault in faults.items() if fault]:
        raise ContractError("\n".join(broken))
    return Checked(tuple(faults), skipped)


def _copy(layer: Any) -> Any:
    return copy.deepcopy(layer).double().eval() if isinstance(layer, nn.Module) else layer


def _find_fault(name: str, subject: Subject, seed: int) -> str | None:
    """What is wrong, in words; an error of the layer itself counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return CONTRACTS[name][1](subject)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def _call(layer: Any, x: Tensor, memory: Tensor | None, keep: Tensor | None) -> Tensor:
    return layer(x, keep=keep) if memory is None else layer(x, memory, keep=keep)
