"""Every combination of the registered parts, legal and not, and the places of use it is tried in."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv import catalogue, rules
from qkv.kernel import RFA, Favor
from qkv.layer import Attention
from qkv.part import Part, list_options
from qkv.rules import Choice
from qkv.scope import Neighbourhood, Predictive, Window
from qkv.score import Cosine, Location
from qkv.select import TopK
from reference.loops import Masks

# By name: parts whose defaults would leave a branch untried, or whose examples in the docs are large.
# Few and sharp random features give denominators that have to be filled up.
EXAMPLES: dict[str, list[Part]] = {
    "cosine": [Cosine(strength=3.0)],
    "location": [Location(7)],
    "window": [Window(2, right=1)],
    "predictive": [Predictive(2), Predictive(3, renormalise=True)],
    "neighbourhood": [Neighbourhood(2, 3, 1)],
    "topk": [TopK(2)],
    "rfa": [
        RFA(features=5, temperature=0.5),
        RFA(features=5, temperature=0.5, gate=True),
        RFA(features=5, temperature=2.0, normalise=False),
        RFA(features=5, kernel="arccos"),
        RFA(features=5, kernel="arccos", gate=True),
    ],
    "favor": [Favor(features=5)],
}

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
        names = [_name(part) for part in parts if part is not None]
        place = ["causal" * self.choice.causal, "cross" if self.cross else "self", self.layout]
        return "-".join(filter(None, names + place))

    @property
    def dense(self) -> bool:
        """Whether every key that may be seen gets some of the weight: few rectified features give none."""
        return not self.choice.select.sparse and getattr(self.choice.kernel, "kernel", "") != "arccos"

    @property
    def positional(self) -> bool:
        """Whether it matters where a key stands."""
        return any(getattr(part, "positional", False) for part in (self.choice.score, self.choice.scope))

    @property
    def cells(self) -> int | None:
        """The only number of keys that the scope accepts, of which causal queries may lack the last."""
        grid = self.choice.scope.grid
        return None if grid is None else grid[0] * grid[1]

    @property
    def normalised(self) -> bool:
        """Whether the weights sum to 1."""
        return self.choice.scope.normalised

    @property
    def exact(self) -> bool:
        """Whether weights are formed, so that allow= and bias= can be honoured."""
        return self.choice.kernel.forms_weights


def _name(part: Part) -> str:
    """The part's name, and the options that tell it from other examples of its kind."""
    examples = EXAMPLES.get(part.name, [part])
    told = [f"{getattr(part, option)}" for option in _differing(examples)]
    return "_".join([part.name, *told])


def _differing(examples: list[Part]) -> list[str]:
    return [o for o in list_options(type(examples[0])) if len({str(getattr(e, o)) for e in examples}) > 1]


def combinations() -> list[Choice]:
    """The product of the registries, causal and not; the score may also be left out."""
    options: dict[str, list[Any]] = {
        axis: [part for kind in kinds.values() for part in _examples(kind)]
        for axis, kinds in rules.AXES.items()
    }
    options["score"] = [None, *options["score"]]
    products = itertools.product(*(options[axis] for axis in rules.AXES))
    return [Choice(*parts, causal=causal) for parts in products for causal in (False, True)]


def _examples(kind: type[Part]) -> list[Part]:
    return EXAMPLES[kind.name] if kind.name in EXAMPLES else [catalogue.build_example(kind)]


def at_home(choice: Choice) -> bool:
    """Whether it differs from the Transformer's attention on one axis at most."""
    usual = ("scaled_dot", "global", "soft", "softmax")
    parts = [getattr(choice, axis) for axis in rules.AXES]
    strange = [part.name for part, name in zip(parts, usual, strict=True) if part and part.name != name]
    return len(strange) <= 1


def _layouts(index: int, choice: Choice) -> list[tuple[bool, str]]:
    """Self and cross in every layout near home; elsewhere one of them in each outer layout, in turn."""
    if at_home(choice):
        return list(itertools.product((False, True), LAYOUTS))
    return list(
        zip((False, True), ("grouped", "bare") if index // 2 % 2 else ("bare", "grouped"), strict=True)
    )


# Without a score an exact kernel takes a registered one, so these would be the same case twice.
ALL = [c for c in combinations() if c.score is not None or not c.kernel.forms_weights]
LEGAL = [c for c in ALL if not rules.find_broken(c)]
# One variant of a kernel is as illegal as another.
ILLEGAL = [c for c in ALL if rules.find_broken(c) and c.kernel == _examples(type(c.kernel))[0]]
CASES = [Case(c, *place) for index, c in enumerate(LEGAL) for place in _layouts(index, c)]
# The layouts with the most and the least to go wrong, for contracts that the others add nothing to.
OUTER = [case for case in CASES if case.layout in ("grouped", "bare")]
# Every combination once, and near home in one head, for contracts that take long.
ONCE = [case for case in CASES if case.layout == "one"]
ONCE += [case for i, case in enumerate(c for c in CASES if not at_home(c.choice)) if i % 4 in (0, 3)]
HOME = [case for case in CASES if case.layout == "grouped" and at_home(case.choice)]
USUAL = [case for case in HOME if case.choice.causal != case.cross]


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
    x = torch.randn(batch, queries(case), width, dtype=dtype)
    if not case.cross:
        return x, None
    return x, torch.randn(batch, keys(case), width if case.layout == "bare" else MEMORY, dtype=dtype)


def queries(case: Case) -> int:
    """How many queries the inputs of the case have."""
    return T if case.cross else keys(case)


def keys(case: Case) -> int:
    """How many keys the inputs of the case have."""
    if case.cells and (case.cross or not case.choice.causal):
        return case.cells
    return S if case.cross else T


def wild(x: Tensor, keep: Tensor) -> Tensor:
    """x [B,S,.] with NaN, infinity and the largest numbers in turn where keep [B,S] is False."""
    largest = torch.finfo(x.dtype).max
    junk = x.new_tensor([torch.nan, torch.inf, largest, -torch.inf, -largest])
    return torch.where(keep[..., None], x, junk[torch.arange(keep.shape[1]) % len(junk)][:, None])


def filled(attention: Attention, x: Tensor, memory: Tensor | None) -> bool:
    """Whether a feature map's denominator is below its floor anywhere in this case."""
    q, k, _, _ = attention._prepare(x, memory, None, None, None)
    core = attention.core
    projections = core.features.choose_projections()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    alike = core.features.map_queries(q, projections) @ core.features.map_keys(k, projections)[0].mT
    return bool((alike.cumsum(-1) < core.floor * torch.arange(1, k.shape[2] + 1).sqrt()).any())


def all_masks(case: Case) -> Masks:
    """A keep mask; also allow and bias, where the kernel honours them."""
    keep = torch.rand(B, keys(case)) < 0.7
    if not case.exact:
        return Masks(keep)
    shape = (B, LAYOUTS[case.layout]["heads"], queries(case), keys(case))
    return Masks(keep, torch.rand(shape) < 0.8, torch.randn(shape, dtype=torch.float64))


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal up to float64's rounding, or to the tolerance given."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
