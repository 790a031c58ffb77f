"""Gradients of the fast engines' operators as a graph of torch's own, for derivatives of derivatives.

An engine computes a gradient in one call, which nothing can differentiate.  Where somebody wants to, the same
gradient is made of torch's operators instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.kernel.chunks import fold
from qkv.kernel.given import wide
from qkv.kernel.kind import MAPS
from qkv.kernel.masses import NOTHING, Masses
from qkv.kernel.sums import Mapped, Sums, add_up, normalise, nothing, running
from qkv.score.cosine import unit as unit_vectors
from qkv.transforms import transformed

# Of the tensors that `linear_attention` takes, those that have no gradient: keep, and the scale of the sums.
CONSTANT = (4, 9)


def is_wanted() -> bool:
    """Whether a backward pass is to be differentiated itself, or runs under vmap."""
    return torch.is_grad_enabled() or transformed()


def gradients(function: Callable[..., Any], inputs: Sequence[Tensor], grads: Any) -> tuple[Tensor, ...]:
    """The gradients of function(*inputs), which is made of torch's operators, as functions of both."""
    _, pull_back = torch.func.vjp(function, *inputs)
    return pull_back(grads)


def linear_gradients(
    inputs: Sequence[Tensor | None], numbers: tuple[Any, ...], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of an engine's ten tensors; grads: those of out, sums and plain sums, or None."""
    places = [i for i, x in enumerate(inputs) if x is not None and i not in CONSTANT]

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        every = list(inputs)
        for place, tensor in zip(places, tensors, strict=True):
            every[place] = tensor
        return linear_attention(every, numbers)

    outs, pull_back = torch.func.vjp(call, *(inputs[place] for place in places))
    found = iter(pull_back(tuple(g if g is not None else o * 0 for g, o in zip(grads, outs, strict=True))))
    return [next(found) if i in places else None for i in range(len(inputs))]


def linear_attention(inputs: Sequence[Any], numbers: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """out, sums and plain sums of an engine's `linear_attention`, with its arguments."""
    q, k, v, matrix, keep, written, decay, *before = inputs
    map, unit, causal, square, floor = numbers
    phi_q, _ = _features(q, matrix, map, unit, square)
    phi_k, log_mass = _features(k, matrix, map, unit, square)
    values = F.pad(wide(v), (0, 1), value=1.0)
    if keep is not None:
        phi_k, values = (x * keep[:, None, :, None] for x in (phi_k, values))
    if log_mass is not None:
        log_mass = log_mass if keep is None else log_mass.masked_fill(~keep[:, None], NOTHING)
        written = log_mass if written is None else written + log_mass
    masses = None if written is None else Masses(written, decay)
    sums = nothing(Mapped(phi_k, values, masses))
    if before[0] is not None:
        sums = Sums(before[0], before[1], sums.scale if before[2] is None else before[2])
    if causal:
        out, sums = _causal(phi_q, phi_k, values, masses, sums, floor)
    else:
        sums = add_up(Mapped(phi_k, values, masses), sums)
        out = normalise(phi_q @ sums.features, sums.plain, floor)
    return out.to(v.dtype), sums.features, sums.plain


def _causal(q: Tensor, k: Tensor, v: Tensor, masses: Masses | None, sums: Sums, floor: float) -> Any:
    def step(before: Sums, _: slice, q: Tensor, k: Tensor, v: Tensor, *masses: Any) -> tuple[Tensor, Sums]:
        return running(q, Mapped(k, v, None if masses[0] is None else Masses(*masses)), before, floor)

    return fold(step, sums, q, k, v, *(masses or (None, None)))


def _features(
    x: Tensor, matrix: Tensor | None, map: int, unit: bool, square: float
) -> tuple[Tensor, Tensor | None]:
    x = unit_vectors(wide(x)) if unit else wide(x)
    if matrix is None:
        return x.clamp_max(0).exp() + x.relu(), None
    products, scale = x @ matrix.to(x.dtype).mT, matrix.shape[1] ** -0.5
    if map == MAPS["gaussian"]:
        return torch.cat([products.sin(), products.cos()], -1) * scale, None
    if map == MAPS["arccos"]:
        return products.relu() * scale, None
    highest = products.detach().amax(-1, keepdim=True)
    return (products - highest).exp() * scale, highest[..., 0] - square * x.square().sum(-1)
