"""Random attention of random sizes against the loop formulas of `reference`; the number of cases is printed.

A case is a legal combination of parts with its options, a layout (heads, shared key heads, widths), lengths
from 0 to beyond every threshold of the fast routes, masks, a type and a number of threads.  Long cases are
compared at some of their queries, because the formulas are loops.
"""

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from qkv import rules
from qkv.errors import IncompatibleParts
from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.layer import Attention
from qkv.rules import Choice
from qkv.scope import Global, Neighbourhood, Predictive, Window
from qkv.score import Additive, Cosine, Dot, General, Location, ScaledDot
from qkv.select import Entmax, Hard, Soft, Sparsemax, TopK
from reference import formulas, loops
from reference.loops import Masks, Place

CASES = 800
# Below, at and above a decoding step, a tile, a chunk of either engine, and the least that threads share.
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 257, 511, 513, 577)
# The formula of sparsemax tries every set of keys; that of entmax with α = 2 gives the same and does not.
MANY_KEYS = 8


class Case(NamedTuple):
    """What is drawn; queries are the keys where `memory` is None."""

    choice: Choice
    layout: dict[str, Any]
    batch: int
    queries: int
    memory: int | None
    memory_width: int | None
    keep: str
    pairwise: bool
    dtype: torch.dtype
    threads: int

    @property
    def keys(self) -> int:
        """S."""
        return self.queries if self.memory is None else self.memory


def drawn_kernel(draw: random.Random, keys: int) -> Any:
    features = draw.choice((1, 2, 5, 11, 16, 33))
    return draw.choice(
        (
            Softmax(),
            Softmax(),
            Elu(),
            Favor(features),
            RFA(features, temperature=draw.choice((0.5, 1.0, 2.0))),
            RFA(features, "arccos", normalise=draw.random() < 0.5),
            RFA(features, normalise=False, temperature=2.0),
            RFA(features, draw.choice(("gaussian", "arccos")), gate=True),
        )
    )


def drawn_grid(draw: random.Random, keys: int) -> Any:
    """Neighbourhoods on a grid of so many cells."""
    if keys == 0:
        return Global()
    height = draw.choice([side for side in range(1, keys + 1) if keys % side == 0])
    return Neighbourhood(height, keys // height, draw.choice((1, 2, 3)))


def drawn_choice(draw: random.Random, keys: int) -> Choice:
    """A legal combination."""
    while True:
        kernel, causal = drawn_kernel(draw, keys), draw.random() < 0.5
        if not kernel.forms_weights:
            choice = Choice(None, Global(), Soft(), kernel, causal)
        else:
            score = draw.choice(
                (
                    ScaledDot(),
                    Dot(),
                    General(),
                    Additive(draw.choice((1, 5, 17))),
                    Cosine(3.0),
                    Location(max(keys, 1)),
                )
            )
            scope = draw.choice(
                (
                    Global(),
                    Global(),
                    Window(draw.choice((1, 5, 40))),
                    Window(3, right=1),
                    Predictive(3),
                    drawn_grid(draw, keys),
                )
            )
            select = draw.choice((Soft(), Soft(), Hard(), Sparsemax(), Entmax(), Entmax(1.3), TopK(3)))
            choice = Choice(score, scope, select, kernel, causal)
        if not rules.find_broken(choice):
            return choice


def drawn(seed: int) -> Case:
    draw = random.Random(seed)
    longest = draw.choice((8, 8, 40, 70, 600))
    lengths = [n for n in LENGTHS if n <= longest] + [draw.randrange(longest)]
    queries, memory = draw.choice(lengths), draw.choice((None, draw.choice(lengths)))
    choice = drawn_choice(draw, queries if memory is None else memory)
    heads, shared = draw.choice(((1, 1), (1, 1), (2, 2), (3, 3), (4, 2), (3, 1)))
    # The cosines of single numbers are all equal, and which of them are highest is up to rounding.
    widths = (2, 3, 5, 8, 16, 17, 33) if isinstance(choice.score, Cosine) else (1, 2, 3, 5, 8, 16, 17, 33)
    layout: dict[str, Any] = {"heads": heads, "width": draw.choice(widths) * heads}
    if heads == 1 and draw.random() < 0.2:
        layout["project"] = False
    elif shared < heads:
        layout["kv_heads"] = shared
    layout["bias"] = draw.random() < 0.5
    small = max(queries, memory or 0) < 70
    return Case(
        choice=choice,
        layout=layout,
        batch=draw.choice((0, 1, 2, 3)) if small else 1,
        queries=queries,
        memory=memory,
        memory_width=None if memory is None or "project" in layout else draw.choice((None, 7)),
        keep=draw.choice(("all", "random", "random", "left", "right", "none")),
        pairwise=choice.kernel.forms_weights and draw.random() < 0.3,
        dtype=draw.choice((torch.float32, torch.float32, torch.float64)),
        threads=draw.randint(1, 4),
    )


def layer_of(case: Case) -> Attention:
    layout = dict(case.layout)
    parts = {axis: getattr(case.choice, axis) for axis in rules.AXES}
    layer = Attention(
        layout.pop("width"), **layout, **parts, causal=case.choice.causal, d_memory=case.memory_width
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return layer.double().eval()


def masks_of(case: Case) -> Masks:
    """keep [B,S], and allow and bias [B,H,T,S] where the kernel honours them."""
    keys, rows = case.keys, case.batch
    keep = torch.rand(rows, keys) < 0.7
    ends = torch.randint(0, keys + 1, (rows, 1))
    if case.keep == "right":
        keep = torch.arange(keys) < ends
    if case.keep == "left":
        keep = torch.arange(keys) >= ends
    if case.keep == "none":
        keep = torch.zeros(rows, keys, dtype=torch.bool)
    shape = (rows, case.layout["heads"], case.queries, keys)
    pairs = (
        (torch.rand(shape) < 0.8, torch.randn(shape, dtype=torch.float64)) if case.pairwise else (None, None)
    )
    return Masks(None if case.keep == "all" else keep, *pairs)


def some_queries(case: Case) -> list[int]:
    """All where the loops are short; else the first, the last, and some in between."""
    most = max(2, 1500 // max(case.keys, 1))
    if case.queries <= most:
        return list(range(case.queries))
    draw = random.Random(case.queries)
    return sorted({0, case.queries - 1, *draw.sample(range(case.queries), most)})


@torch.no_grad()
def looped(layer: Attention, x: Tensor, memory: Tensor | None, masks: Masks, queries: list[int]) -> Tensor:
    """The layer's output [B,len(queries),M] by the formulas."""
    own, source = memory is None, x if memory is None else memory
    heads, value = layer.dims.heads, layer.dims.value
    mixed = torch.zeros(len(x), len(queries), heads, value, dtype=torch.float64)
    for row in range(len(x)):
        for head in range(heads):
            pairs = [loops._key_value(layer, word, head) for word in source[row]]
            gates = loops._gates(layer, source[row], head)
            for i, t in enumerate(queries):
                place = Place(row, head, t, x.shape[1], source.shape[1], own)
                q = loops._query(layer, x[row, t], head)
                weights = loops._weights(layer, place, masks, q, [key for key, _ in pairs], gates)
                for s, weight in weights.items():
                    mixed[row, i, head] += weight * pairs[s][1]
    out = [torch.stack([loops._output(layer, word.flatten()) for word in row]) for row in mixed if queries]
    return torch.stack(out) if out else x.new_zeros(len(x), len(queries), x.shape[2])


def sparsemax(logits: Tensor, select: Any) -> Tensor:
    few = len(logits) <= MANY_KEYS
    return formulas.sparsemax(logits, select) if few else formulas.entmax(logits, Entmax(2.0))


def differences(case: Case, seed: int) -> tuple[float, float]:
    """How far the layer is from the formulas, and how far it may be."""
    torch.manual_seed(seed)
    torch.set_num_threads(case.threads)
    layer, masks, queries = layer_of(case), masks_of(case), some_queries(case)
    x = torch.randn(case.batch, case.queries, case.layout["width"], dtype=torch.float64)
    width = case.memory_width or case.layout["width"]
    memory = None if case.memory is None else torch.randn(case.batch, case.memory, width, dtype=torch.float64)
    given = {"keep": masks.keep, "allow": masks.allow, "bias": masks.bias}
    exact = layer(x, memory, **given)
    expected = looped(layer, x, memory, masks, queries)
    off = _distance(exact[:, queries], expected)
    if off > 1e-8 or case.dtype == torch.float64:
        return off, 1e-8
    single = layer.float()
    given["bias"] = None if masks.bias is None else masks.bias.float()
    found = single(x.float(), None if memory is None else memory.float(), **given)
    assert found.dtype == torch.float32
    return _distance(found[:, queries], expected), 5e-5


def _distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    if not found.numel():
        return 0.0
    largest = max(1.0, expected.abs().max().item())
    return (found.double() - expected).abs().nan_to_num(float("inf")).max().item() / largest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_specs_equal_the_formulas(
    one_thread: None, unchecked: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(formulas.SELECTS, "sparsemax", sparsemax)
    kinds, wrong = Counter[str](), []
    for seed in range(CASES):
        case = drawn(seed)
        off, most = differences(case, seed)
        kinds[case.choice.kernel.name] += 1
        if not off <= most:
            wrong.append((seed, off, case))
    with capsys.disabled():
        print(f"\n{CASES} specs and shapes, {len(wrong)} wrong: {dict(kinds)}")
    assert not wrong, wrong[:5]


def test_what_cannot_be_combined_is_refused(unchecked: None) -> None:
    """The generator of cases avoids nothing that can be built."""
    with pytest.raises(IncompatibleParts):
        Attention(8, 2, kernel=Elu(), score=ScaledDot(), select=Sparsemax())
