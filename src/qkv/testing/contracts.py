"""The contracts: for each, whether it applies to a layer and what is wrong with the layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_B, _T, _S = 3, 5, 7
_CLOSE = 1e-9  # of float64, relative to the largest output
_JUNK = (30.0, float("nan"), float("inf"))
# Left, interior and right padding; every example keeps a key.
_PADDED = torch.tensor(
    [[0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool
)

Call = Callable[[Any, Tensor, Tensor | None, Tensor | None], Tensor]


class Subject(NamedTuple):
    """A copy of the layer in float64 and how to call it."""

    layer: Any
    call: Call
    width: int
    memory_width: int | None
    causal: bool
    normalised: bool

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return _T if self.memory_width is None else _S

    def draw(self, batch: int = _B) -> tuple[Tensor, Tensor | None]:
        """Random queries, and a memory unless the layer attends to itself."""
        x = torch.randn(batch, _T, self.width, dtype=torch.float64)
        if self.memory_width is None:
            return x, None
        return x, torch.randn(batch, _S, self.memory_width, dtype=torch.float64)

    def run(self, x: Tensor, memory: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """The output of the layer."""
        return self.call(self.layer, x, memory, keep)

    def run_from(self, source: Tensor, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """The output with `source` as memory, or in place of `x` in self-attention."""
        return self.run(source, None, keep) if self.memory_width is None else self.run(x, source, keep)


def _differ(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; inf where something is not finite."""
    actual, expected = actual.detach(), expected.detach()
    if not actual.isfinite().all():
        return float("inf")
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _check_shape(subject: Subject) -> str | None:
    x, memory = subject.draw()
    out = subject.run(x, memory)
    if out.shape[:2] != x.shape[:2] or out.dtype != x.dtype:
        return f"the output of {list(x.shape)} {x.dtype} is {list(out.shape)} {out.dtype}"
    return None if out.isfinite().all() else "the output is not finite"


def _check_repeat(subject: Subject) -> str | None:
    x, memory = subject.draw()
    error = _differ(subject.run(x, memory), subject.run(x, memory))
    return f"the same input gives outputs that differ by {error:.1e} in evaluation" if error else None


def _check_batch(subject: Subject) -> str | None:
    x, memory = subject.draw()
    keep = _PADDED[:, : subject.keys]
    together = subject.run(x, memory, keep)
    for row in range(_B):
        one = slice(row, row + 1)
        alone = subject.run(x[one], None if memory is None else memory[one], keep[one])
        real = keep[row] if memory is None else torch.ones(_T, dtype=torch.bool)
        if (error := _differ(together[row][real], alone[0][real])) > _CLOSE:
            return f"an example gives another output alone than in its batch: the difference is {error:.1e}"
    return None


def _check_padding(subject: Subject) -> str | None:
    x, memory = subject.draw()
    source, keep = (x if memory is None else memory), _PADDED[:, : subject.keys]
    real = keep if memory is None else torch.ones(_B, _T, dtype=torch.bool)
    expected = subject.run_from(source, x, keep)[real]
    for junk in _JUNK:
        filled = torch.where(keep[..., None], source, junk).requires_grad_()
        out = subject.run_from(filled, x, keep)[real]
        if (error := _differ(out, expected)) > _CLOSE:
            return f"{junk} in padding changes the outputs of real positions by {error:.1e}"
        (gradient,) = torch.autograd.grad(out.square().sum(), filled)
        if not gradient.isfinite().all():
            return f"{junk} in padding gives gradients that are not finite"
        if gradient[~keep].any():
            return "padding gets a gradient"
    return None


def _check_empty(subject: Subject) -> str | None:
    x, memory = subject.draw()
    keep = torch.ones(_B, subject.keys, dtype=torch.bool)
    keep[0] = False
    source = (x if memory is None else memory).requires_grad_()
    out = subject.run_from(source, x, keep)
    if not out.isfinite().all():
        return "an example without any key has outputs that are not finite"
    if not torch.equal(out[0], out[0, :1].expand_as(out[0])):
        return "an example without any key has outputs that depend on the queries: expected 0 (or the bias)"
    leaves = [source, *subject.layer.parameters()] if isinstance(subject.layer, nn.Module) else [source]
    gradients = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    finite = all(gradient.isfinite().all() for gradient in gradients)
    return None if finite else "an example without any key gives gradients that are not finite"


def _check_causal(subject: Subject) -> str | None:
    x, memory = subject.draw(batch=1)
    source = (x if memory is None else memory).requires_grad_()
    out = subject.run_from(source, x)[0]
    for t, row in enumerate(out):
        (gradient,) = torch.autograd.grad(row.square().sum(), source, retain_graph=True)
        reach, last = gradient[0].abs().sum(-1), t + subject.keys - _T
        future = reach[last + 1 :]
        if future.any():
            return f"query {t} depends on key {last + 1 + int(future.argmax())}, which is in its future"
        if last and not reach[:last].any():
            return f"query {t} does not depend on any key before key {last}"
    return None


def _check_gradients(subject: Subject) -> str | None:
    x, memory = subject.draw(batch=1)
    leaves = [tensor.requires_grad_() for tensor in (x, memory) if tensor is not None]
    try:
        torch.autograd.gradcheck(lambda *inputs: subject.run(*inputs), leaves)
    except RuntimeError as error:
        return f"torch.autograd.gradcheck: {str(error).splitlines()[0]}"
    return None


def _check_masks(subject: Subject) -> str | None:
    x, memory = subject.draw()
    for dtype in (torch.int64, torch.float32):
        try:
            subject.run(x, memory, _PADDED[:, : subject.keys].to(dtype))
        except (TypeError, ValueError):
            continue
        return f"keep of {dtype} is accepted, though it is not clear whether 1 or 0 marks real keys"
    return None


def _check_weights(subject: Subject) -> str | None:
    x, memory = subject.draw()
    keep = _PADDED[:, : subject.keys]
    arguments = (x,) if memory is None else (x, memory)
    out, weights = subject.layer.attend(*arguments, keep=keep)[:2]
    if (error := _differ(out, subject.run(x, memory, keep))) > _CLOSE:
        return f"asking for the weights changes the output by {error:.1e}"
    if weights.shape[0] != _B or weights.shape[2:] != (_T, subject.keys):
        return f"the weights are {list(weights.shape)}, expected [{_B}, heads, {_T}, {subject.keys}]"
    allowed = keep[:, None, None, :].expand_as(weights)
    if subject.causal:
        allowed = allowed & torch.ones(_T, subject.keys, dtype=torch.bool).tril(subject.keys - _T)
    if weights[~allowed].any():
        return "keys that may not be attended have weights that are not 0"
    sums = weights.detach().sum(-1)
    expected = allowed.any(-1).to(sums.dtype)
    if subject.normalised and not (sums - expected).abs().max() < _CLOSE:
        return f"the weights of a query add up to between {float(sums.min()):.6g} and {float(sums.max()):.6g}"
    return None


def _check_steps(subject: Subject) -> str | None:
    x, memory = subject.draw()
    expected = subject.run(x, memory)
    for size in (1, 2):
        state = subject.layer.start(memory) if memory is not None else subject.layer.start(batch=_B)
        outputs = []
        for piece in x.split(size, 1):
            out, state = subject.layer.step(piece, state)
            outputs.append(out)
        if (error := _differ(torch.cat(outputs, 1), expected)) > _CLOSE:
            return f"steps of {size} give another output than all at once: the difference is {error:.1e}"
    return None


def _needs_method(*names: str) -> Callable[[Subject], str | None]:
    def explain(subject: Subject) -> str | None:
        missing = [name for name in names if not hasattr(subject.layer, name)]
        return f"the layer has no method {missing[0]}" if missing else None

    return explain


def _needs_causal(subject: Subject) -> str | None:
    return None if subject.causal else "the layer is not causal"


def _needs_steps(subject: Subject) -> str | None:
    if not subject.causal and subject.memory_width is None:
        return "without causal=True a later position changes the earlier ones"
    if subject.causal and subject.memory_width is not None:
        return "steps over a memory see all of it"
    return _needs_method("start", "step")(subject)


# Name -> (why the contract does not apply to a layer, or None; what is wrong with the layer, or None).
CONTRACTS: dict[str, tuple[Callable[[Subject], str | None], Callable[[Subject], str | None]]] = {
    "shape": (lambda subject: None, _check_shape),
    "repeat": (lambda subject: None, _check_repeat),
    "batch": (lambda subject: None, _check_batch),
    "masks": (lambda subject: None, _check_masks),
    "padding": (lambda subject: None, _check_padding),
    "empty": (lambda subject: None, _check_empty),
    "causal": (_needs_causal, _check_causal),
    "gradients": (lambda subject: None, _check_gradients),
    "weights": (_needs_method("attend"), _check_weights),
    "steps": (_needs_steps, _check_steps),
}
