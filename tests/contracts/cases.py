"""Every combination of the registered parts, legal and not, and the places of use it is tried in."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv import rules
from qkv.attention import Attention
from qkv.kernel import RFA
from qkv.part import Part
from qkv.rules import Choice
from reference.loops import Masks

# By name: parts that cannot be built without options, or whose defaults would leave a branch untried.
# Few and sharp random features give denominators that have to be filled up.
EXAMPLES: dict[str, Part] = {"rfa": RFA(features=5, temperature=0.5)}

# B, H, T, S, D and the width of the memory are all different, so that no transposed axis can hide.
B, T, S, D, MEMORY = 2, 5, 7, 11, 13
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {"heads": 1},
    "three": {"heads": 3, "bias": False},
    "grouped": {"heads": 4, "kv_heads": 2},
    "bare": {"heads": 1, "project": False},
}


class Case(NamedTuple):
    """A legal combination in a place of use."""

    choice: Choice
    cross: bool
    layout: str

    def __str__(self) -> str:
        parts = [getattr(self.choice, axis) for axis in rules.AXES]
        names = [part.name for part in parts if part is not None]
        place = ["causal" * self.choice.causal, "cross" if self.cross else "self", self.layout]
        return "-".join(filter(None, names + place))

    @property
    def exact(self) -> bool:
        """Whether weights are formed, so that allow= and bias= can be honoured."""
        return self.choice.kernel.forms_weights


def combinations() -> list[Choice]:
    """The product of the registries, causal and not; the score may also be left out."""
    options: dict[str, list[Any]] = {
        axis: [_example(kind) for kind in kinds.values()] for axis, kinds in rules.AXES.items()
    }
    options["score"] = [None, *options["score"]]
    products = itertools.product(*(options[axis] for axis in rules.AXES))
    return [Choice(*parts, causal=causal) for parts in products for causal in (False, True)]


def _example(kind: type[Part]) -> Part:
    return EXAMPLES[kind.name] if kind.name in EXAMPLES else kind()


# Without a score an exact kernel takes a registered one, so these would be the same case twice.
LEGAL = [
    c for c in combinations() if not rules.broken(c) and not (c.score is None and c.kernel.forms_weights)
]
ILLEGAL = [c for c in combinations() if rules.broken(c)]
CASES = [Case(c, cross, layout) for c in LEGAL for cross in (False, True) for layout in LAYOUTS]
# The layouts with the most and the least to go wrong, for contracts that the others add nothing to.
OUTER = [case for case in CASES if case.layout in ("grouped", "bare")]


def build(case: Case, dtype: torch.dtype = torch.float64) -> Attention:
    """The layer of a case, in evaluation, with every parameter away from its tidy initial value."""
    choice, layout = case.choice, LAYOUTS[case.layout]
    parts = {axis: getattr(choice, axis) for axis in rules.AXES}
    memory = MEMORY if case.cross and case.layout != "bare" else None
    attention = Attention(layout["heads"] * D, **layout, **parts, causal=choice.causal, d_memory=memory)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return attention.to(dtype).eval()


def inputs(case: Case, dtype: torch.dtype = torch.float64, batch: int = B) -> tuple[Tensor, Tensor | None]:
    """x [B,T,M], and a memory [B,S,.] where the case has one."""
    width = LAYOUTS[case.layout]["heads"] * D
    x = torch.randn(batch, T, width, dtype=dtype)
    if not case.cross:
        return x, None
    return x, torch.randn(batch, S, width if case.layout == "bare" else MEMORY, dtype=dtype)


def keys(case: Case) -> int:
    """How many keys the inputs of the case have."""
    return S if case.cross else T


def filled(attention: Attention, x: Tensor, memory: Tensor | None) -> bool:
    """Whether a feature map's denominator is below its floor anywhere in this case."""
    q, k, _, _ = attention._prepare(x, memory, None, None, None)
    core = attention.core
    projections = core.features.draw()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    alike = core.features(q, projections) @ core.features(k, projections).mT
    return bool((alike.cumsum(-1) < core.floor * torch.arange(1, k.shape[2] + 1)).any())


def all_masks(case: Case) -> Masks:
    """A keep mask; also allow and bias, where the kernel honours them."""
    keep = torch.rand(B, keys(case)) < 0.7
    if not case.exact:
        return Masks(keep)
    shape = (B, LAYOUTS[case.layout]["heads"], T, keys(case))
    return Masks(keep, torch.rand(shape) < 0.8, torch.randn(shape, dtype=torch.float64))


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal up to float64's rounding, or to the tolerance given."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
