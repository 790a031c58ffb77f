"""What the fast engines compute, by torch's own operators, for gradients that are differentiated again.

The backward pass of an engine is one operator, which has no derivative.  Where autograd records what a
backward pass does (`create_graph=True`), the pass therefore differentiates the functions of this module.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.kernel.chunks import fold
from qkv.kernel.kind import MAPS, RESCALING_MAPS
from qkv.kernel.masking import wide
from qkv.kernel.masses import NOTHING, Masses
from qkv.kernel.sums import Features, Mapped, Sums, add_up, normalise, nothing, running
from qkv.score.cosine import scale_to_unit_length
from qkv.tracing import is_transformed

NAMES = tuple(MAPS)


class Inputs(NamedTuple):
    """The tensors of a call of an engine: q [B,H,T,D], k [B,H,S,D], v [B,H,S,E], W [H,R,D], keep [B,S], the
    keys' masses [B,H,S], and the sums that the keys follow.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    matrix: Tensor | None
    keep: Tensor | None
    written: Tensor | None
    decay: Tensor | None
    sums: Tensor | None
    plain: Tensor | None
    scale: Tensor | None


class Numbers(NamedTuple):
    """The numbers of a call of an engine; see `kind.Kind`."""

    map: int
    unit: bool
    causal: bool
    square: float
    floor: float

    @property
    def name(self) -> str:
        """The feature map."""
        return NAMES[self.map]


def is_wanted() -> bool:
    """Whether a backward pass is to be differentiated again, or is batched by vmap."""
    return torch.is_grad_enabled() or is_transformed()


def gradients(inputs: Inputs, numbers: Numbers, grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The gradients of `inputs`, as functions that autograd can differentiate; None where there are none.

    grads: the gradients of out, sums and plain sums; None for zeros.
    """
    # Views: where one input is made of another, each gets what reaches it directly, and no more.
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(inputs.q.device.type, enabled=False):
        inputs = Inputs._make(None if x is None else x.view_as(x) for x in inputs)
        outputs = attend(inputs, numbers)
    reached = [
        (y, grad) for y, grad in zip(outputs, grads, strict=True) if grad is not None and y.requires_grad
    ]
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    if not reached or not wanted:
        return [None] * len(inputs)
    ys, grads = zip(*reached, strict=True)
    of_wanted = iter(torch.autograd.grad(ys, wanted, grads, create_graph=create_graph, allow_unused=True))
    return [next(of_wanted) if x is not None and x.requires_grad else None for x in inputs]


def attend(inputs: Inputs, numbers: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """out [B,H,T,E] in the type of q, and the sums and plain sums after the last key, as the engines' own."""
    q, k, v, written, decay = inputs.q, inputs.k, inputs.v, inputs.written, inputs.decay
    before = _before(inputs, numbers)
    if numbers.causal:

        def step(before: Sums, now: slice, q: Tensor, *keys: Any) -> tuple[Tensor, Sums]:
            features = _features(wide(q), inputs.matrix, numbers)[0]
            return running(features, _mapped(inputs, numbers, now, *keys), before, numbers.floor)

        out, after = fold(step, before, q, k, v, written, decay)
    else:

        def add(before: Sums, now: slice, *keys: Any) -> tuple[None, Sums]:
            return None, add_up(_mapped(inputs, numbers, now, *keys), before)

        _, after = fold(add, before, k, v, written, decay)
        features = _features(wide(q), inputs.matrix, numbers)[0]
        out = normalise(features @ after.features, after.plain, numbers.floor)
    return out.to(q.dtype), after.features, after.plain


def _before(inputs: Inputs, numbers: Numbers) -> Sums:
    if inputs.sums is not None and inputs.plain is not None:
        weighed = inputs.written is not None or numbers.map in RESCALING_MAPS
        return Sums(inputs.sums, inputs.plain, inputs.scale if weighed else None)
    masses = (None if x is None else x[:, :, :0] for x in (inputs.written, inputs.decay))
    return nothing(_mapped(inputs, numbers, slice(0), inputs.k[:, :, :0], inputs.v[:, :, :0], *masses))


def _mapped(
    inputs: Inputs,
    numbers: Numbers,
    now: slice,
    k: Tensor,
    v: Tensor,
    written: Tensor | None,
    decay: Tensor | None,
) -> Mapped:
    """The keys at the positions `now`, ready to be summed; what stands in padding is never read."""
    values = F.pad(wide(v), (0, 1), value=1.0)
    k = wide(k)
    if inputs.keep is None:
        phi, log_mass = _features(k, inputs.matrix, numbers)
    else:
        padded = ~inputs.keep[:, None, now, None]
        values = values.masked_fill(padded, 0)
        phi, log_mass = _features(k.masked_fill(padded, 0), inputs.matrix, numbers)
        phi = phi.masked_fill(padded, 0)
        log_mass = None if log_mass is None else log_mass.masked_fill(padded[..., 0], NOTHING)
    if log_mass is not None:
        written = log_mass if written is None else written + log_mass
    return Mapped(phi, values, None if written is None else Masses(written, decay))


def _features(x: Tensor, matrix: Tensor | None, numbers: Numbers) -> tuple[Features, Tensor | None]:
    """φ(x) [B,H,N,F], and the log mass [B,H,N] that the engines find with it (FAVOR+)."""
    # Here, because these modules import the engines.
    from qkv.kernel.elu import elu_features
    from qkv.kernel.favor import positive_features
    from qkv.kernel.rfa import arccos_features, fourier_features

    x = scale_to_unit_length(x) if numbers.unit else x
    if matrix is None:
        return elu_features(x), None
    if numbers.name == "favor":
        scale = (2 * numbers.square) ** 0.5
        return positive_features(x * scale, matrix / scale)
    return (fourier_features if numbers.name == "gaussian" else arccos_features)(x, matrix), None
