"""The functional forms: `attention` equals `attend`, its memory grows with the length, it compiles whole."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

import qkv
from contracts.cases import LEGAL
from qkv import functional, rules
from qkv.errors import BadShape, IncompatibleParts, UnknownName
from qkv.functional import attend, attention
from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.rules import Choice
from qkv.scope import Window
from qkv.score import Additive
from reference.loops import weights_of
from test_exact import Largest


def learns(choice: Choice) -> bool:
    parts = (choice.score, choice.scope, choice.kernel)
    return any(getattr(part, "learns", False) or getattr(part, "gate", False) for part in parts)


FUNCTIONAL = [choice for choice in LEGAL if not learns(choice)]


def parts_of(choice: Choice) -> dict[str, Any]:
    return {axis: getattr(choice, axis) for axis in rules.AXES} | {"causal": choice.causal}


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random_inputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(shape, dtype=dtype) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize("choice", FUNCTIONAL, ids=lambda choice: str(parts_of(choice)))
@pytest.mark.parametrize("place", ["self", "cross, shared heads"])
def test_attention_is_attend_without_weights(choice: Choice, place: str) -> None:
    grid = choice.scope.grid
    queries, keys = (5, 7) if grid is None else (grid[0] * grid[1],) * 2
    q = torch.randn(2, 4, queries, 6, dtype=torch.float64)
    others = q.new_empty(2, 2, keys, 6).normal_(), q.new_empty(2, 2, keys, 3).normal_()
    k, v = (q, q) if place == "self" else others
    keep = torch.rand(2, k.shape[2]) < 0.7
    allow, bias = torch.rand(4, queries, k.shape[2]) < 0.8, torch.randn(queries, k.shape[2])
    pairwise = {"allow": allow[None], "bias": bias.double()} if choice.kernel.forms_weights else {}
    for masks in ({}, {"keep": keep}, {"keep": keep, **pairwise}):
        options: dict[str, Any] = parts_of(choice) | masks
        torch.manual_seed(1)
        attended = attend(q, k, v, **options)
        torch.manual_seed(1)
        close(attention(q, k, v, **options), attended.out)
        close(weights_of(attended) @ v.repeat_interleave(4 // v.shape[1], 1), attended.out)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [RFA(8), Favor(8), Elu(), Softmax()], ids=repr)
def test_gradients_are_those_of_attend(kernel: Any, causal: bool) -> None:
    inputs = random_inputs(1, 2, 9, 4)
    grads = []
    for run in (attention, lambda q, k, v, **parts: attend(q, k, v, **parts).out):
        q, k, v = leaves = tuple(x.clone().requires_grad_() for x in inputs)
        grads.append(torch.autograd.grad(run(q, k, v, kernel=kernel, causal=causal).square().sum(), leaves))
    for actual, expected in zip(*grads, strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    "parts",
    [{"kernel": RFA(8)}, {"kernel": RFA(8), "causal": True}, {"scope": Window(4), "causal": True}],
    ids=str,
)
def test_linear_and_banded_mechanisms_never_hold_all_pairs(parts: dict[str, Any]) -> None:
    q, k, v = random_inputs(1, 2, 2048, 8, dtype=torch.float32)
    with Largest() as largest:
        attention(q, k, v, **parts)
    assert largest.elements < 2048 * 2048 / 4


def test_causal_differs_from_not_and_widths_may_differ() -> None:
    q, k, v = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 7, 5), torch.randn(2, 2, 7, 11)
    for kernel in (Softmax(), RFA()):
        attended = attend(q, k, v, kernel=kernel, causal=True)
        assert attended.out.shape == (2, 4, 3, 11)
        assert weights_of(attended).shape == (2, 4, 3, 7)
        assert (attended.out - attend(q, k, v, kernel=kernel).out).abs().max() > 1e-3
        close(attended.out, attend(q, k, v, kernel=kernel, causal=True).out, 0)


def test_projections_are_those_of_seed_0_or_of_the_generator() -> None:
    q, k, v = random_inputs(1, 1, 3, 5)
    outs = [attention(q, k, v, kernel=RFA(8), generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    close(outs[0], attention(q, k, v, kernel=RFA(8)), 0)
    assert (outs[0] - outs[1]).abs().max() > 1e-4
    generator = torch.Generator().manual_seed(0)
    drawn = [attention(q, k, v, kernel=RFA(8), generator=generator) for _ in range(2)]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4


def test_an_evaluator_is_built_once() -> None:
    functional._build_once.cache_clear()
    for length in (3, 4):
        q, k, v = random_inputs(1, 2, length, 5)
        for form in (attention, attend):
            form(q, k, v, kernel=RFA(8))
    assert functional._build_once.cache_info().misses == 1


def attend_as_inference(q: Tensor) -> None:
    with torch.inference_mode():
        attention(q, q, q, kernel=RFA(8))


def attend_on_default_device(q: Tensor) -> None:
    with torch.device("meta"):
        attention(q, q, q, kernel=RFA(8))


def attend_in_vmap(q: Tensor) -> None:
    vmap(lambda x: attention(x[None], x[None], x[None], kernel=RFA(8)))(q)


@pytest.mark.parametrize("first_call", [attend_as_inference, attend_in_vmap, attend_on_default_device])
def test_a_kept_evaluator_knows_nothing_of_its_first_caller(first_call: Callable[[Tensor], Any]) -> None:
    q = torch.randn(2, 1, 5, 4)
    expected = attend(q, q, q, kernel=RFA(8), generator=torch.Generator().manual_seed(0)).out
    functional._build_once.cache_clear()
    first_call(q)
    actual = attention(leaf := q.clone().requires_grad_(), leaf, leaf, kernel=RFA(8))
    close(actual, expected, 1e-6)
    actual.sum().backward()


def test_parts_may_be_written_as_in_a_recipe() -> None:
    q, k, v = random_inputs(1, 2, 5, 4)
    expected = attention(q, k, v, kernel=RFA(features=8))
    close(attention(q, k, v, kernel={"name": "rfa", "features": 8}), expected, 0)
    close(attend(q, k, v, kernel="elu").out, attention(q, k, v, kernel=Elu()))
    with pytest.raises(UnknownName, match=r"unknown kernel: 'rfaa'.*rfa"):
        attention(q, k, v, kernel="rfaa")


def test_parts_that_learn_are_refused() -> None:
    x = torch.randn(1, 1, 3, 5)
    for form in (attention, attend):
        with pytest.raises(
            IncompatibleParts, match=r"Additive\(hidden=None\) has parameters.*use qkv.Attention"
        ):
            form(x, x, x, score=Additive())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), r"q must be \[batch, heads, positions, width\], got \(3, 4\)"),
        (((2, 3, 4), (2, 3, 4), (2, 3, 4)), r"q must be .* got \(2, 3, 4\): for one head pass q\[:, None\]"),
        (
            ((1, 2, 3, 4), (2, 3, 4), (2, 3, 4)),
            r"k must be .* got \(2, 3, 4\): for one head pass k\[:, None\]",
        ),
        (((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)), r"must agree in B, Hk, S and D.* got \(1, 2, 3, 4\),"),
        (((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), r"H be a multiple of Hk; got \(1, 3, 3, 4\)"),
        (((1, 2, 3, 4), (1, 0, 3, 4), (1, 0, 3, 4)), r"H be a multiple of Hk; got \(1, 2, 3, 4\), \(1, 0,"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Any, message: str, unchecked: None) -> None:
    for form in (attention, attend):
        with pytest.raises(BadShape, match=message):
            form(*(torch.randn(shape) for shape in shapes))


COMPILED = {
    "softmax": {"kernel": Softmax()},
    "window": {"scope": Window(2)},
    "rfa": {"kernel": RFA(8)},
    "by name": {"kernel": "favor"},
}


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [*itertools.product(("softmax", "rfa"), (None, True)), ("window", None), ("by name", True)],
)
def test_compiles_whole(name: str, dynamic: bool | None, unchecked: None) -> None:
    parts, causal = COMPILED[name], dynamic is None

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=causal, **parts)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (6, 9):
        inputs = random_inputs(2, 2, length, 4, dtype=torch.float32)
        leaves = [x.clone().requires_grad_() for x in inputs]
        close(compiled(*inputs), run(*inputs), 1e-5)
        grads = [torch.autograd.grad(form(*leaves).square().sum(), leaves) for form in (compiled, run)]
        for actual, expected in zip(*grads, strict=True):
            close(actual, expected, 1e-4)


def test_exports_with_any_batch_and_length(unchecked: None) -> None:
    class Attends(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return qkv.attention(q, q, q, kernel=COMPILED["rfa"]["kernel"], causal=True)

    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=2, max=512)}
    exported = torch.export.export(Attends(), (torch.randn(2, 2, 8, 4),), dynamic_shapes={"q": sizes})
    q = torch.randn(3, 2, 17, 4)
    close(exported.module()(q), Attends()(q), 1e-6)
