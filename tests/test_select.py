"""Selections: their formulas, gradients, masks and limits."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.catalogue import build_example
from qkv.errors import BadRecipe
from qkv.layer import Attention
from qkv.select import SELECTS, Entmax, Hard, Soft, Sparsemax, TopK
from qkv.select.soft import softmax
from qkv.select.sparse import entmax, sparsemax
from qkv.shapes import Dims
from reference import formulas

DIMS = Dims(3, 5, 5, 5)
PARTS = [Soft(), Hard(), Hard(evaluate="expectation"), Sparsemax(), TopK(3)]
PARTS += [Entmax(alpha) for alpha in (1.01, 1.2, 1.5, 2, 3, 4)]
PARTS += [build_example(kind) for name, kind in SELECTS.items() if name not in {p.name for p in PARTS}]
ESTIMATORS = [Hard(), Hard("straight_through"), Hard("gumbel")]
with_every_part = pytest.mark.parametrize("part", PARTS, ids=repr)


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def evaluated(part: Any) -> Any:
    built = part.build(DIMS)
    return built.eval() if isinstance(built, torch.nn.Module) else built


def masked() -> tuple[Tensor, Tensor]:
    """Logits [2,3,5,7] and masks: left, inside, right, one key left, nothing left."""
    logits, allow = 2 * doubles(2, 3, 5, 7), torch.rand(2, 3, 5, 7) < 0.6
    allow[0, 0] = torch.ones(5, 7).bool()
    allow[0, 0, 0, :3] = allow[0, 0, 1, 3:5] = allow[0, 0, 2, 5:] = allow[0, 0, 3] = allow[0, 0, 4, 1:] = (
        False
    )
    return logits, allow


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Soft(), [0.0486, 0.3592, 0.5922]),
        (Sparsemax(), [0, 0.25, 0.75]),
        (Entmax(), [0, 0.3260, 0.6740]),
        (Hard(), [0, 0, 1]),
        (TopK(2), [0, 0.3775, 0.6225]),
    ],
    ids=repr,
)
def test_weights_by_hand(part: Any, expected: list[float]) -> None:
    weights, log_prob = evaluated(part)(torch.tensor([[[[-2, 0, 0.5]]]], dtype=torch.float64), None)
    close(weights[0, 0, 0], torch.tensor(expected, dtype=torch.float64), 1e-4)
    assert log_prob is None


@with_every_part
def test_equals_the_formula_over_the_allowed_keys(part: Any) -> None:
    logits, allow = masked()
    weights, formula = evaluated(part)(logits, allow)[0], formulas.SELECTS[part.name]
    for place in itertools.product(*map(range, logits.shape[:3])):
        seen = allow[place]
        assert not weights[place][~seen].any()
        if seen.any():
            close(weights[place][seen], formula(logits[place][seen], part), 1e-9)
    close(weights.sum(-1), allow.any(-1).double())
    close(evaluated(part)(logits, None)[0], evaluated(part)(logits, torch.ones_like(allow))[0])


def test_every_selection_has_its_formula_and_facts() -> None:
    assert {part.name for part in PARTS} == SELECTS.keys() == formulas.SELECTS.keys()
    assert {name for name, kind in SELECTS.items() if kind.sparse} == {"hard", "sparsemax", "entmax", "topk"}
    assert {name for name, kind in SELECTS.items() if kind.samples} == {"hard"}


@with_every_part
def test_a_constant_added_to_a_row_changes_nothing(part: Any) -> None:
    logits, allow = masked()
    shifted = evaluated(part)(logits + 64 * torch.arange(5)[:, None], allow)[0]
    close(shifted, evaluated(part)(logits, allow)[0], 1e-8)


@with_every_part
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_what_is_hidden_does_not_matter(part: Any, junk: float) -> None:
    logits, allow = masked()
    weights = evaluated(part)(logits.masked_fill(~allow, junk), allow)[0]
    close(weights, evaluated(part)(logits, allow)[0], 0)


@pytest.mark.parametrize("part", [*PARTS, *ESTIMATORS], ids=repr)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_row_is_whole_or_empty_and_its_gradients_finite(
    part: Any, training: bool, dtype: torch.dtype
) -> None:
    logits, allow = masked()
    logits = (30 * logits).to(dtype).requires_grad_()
    built = part.build(DIMS)
    if isinstance(built, torch.nn.Module):
        built.train(training)
    weights, log_prob = built(logits, allow)
    assert weights.dtype == dtype
    assert not weights[~allow].any()
    # Rounding the weights of a row to the dtype moves their sum by less than the largest rounding error.
    close(weights.double().sum(-1), allow.any(-1).double(), 4 * torch.finfo(dtype).eps)
    loss = weights.double().square().sum() + (0 if log_prob is None else log_prob.sum())
    if not loss.requires_grad:
        return
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[~allow].any()


@pytest.mark.parametrize("part", [*PARTS, *ESTIMATORS], ids=repr)
def test_no_keys_and_no_queries_are_no_error(part: Any) -> None:
    for shape in ((2, 3, 5, 0), (2, 3, 0, 7)):
        weights, log_prob = part.build(DIMS)(doubles(*shape), None)
        assert weights.shape == shape
        assert log_prob is None or log_prob.shape == shape[:-1]


def test_entmax_goes_from_softmax_to_sparsemax() -> None:
    logits, allow = masked()
    close(entmax(logits, allow, 1 + 1e-9), softmax(logits, allow), 1e-7)
    close(entmax(logits, allow, 2.0), sparsemax(logits, allow), 0)
    sizes = [(entmax(logits, allow, alpha) > 0).sum() for alpha in (1.01, 1.5, 2.0, 3.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_bisection_agrees_with_sorting(alpha: float) -> None:
    logits, allow = masked()
    close(entmax(logits, allow, alpha + 1e-12), entmax(logits, allow, alpha), 1e-9)


@pytest.mark.parametrize("alpha", [1.001, 1.2, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("keys", [1, 1000])
def test_in_float32_weights_sum_to_one_among_a_thousand_keys(alpha: float, keys: int) -> None:
    for spread in (0.0, 1e-3, 1.0, 1e4):
        weights = entmax(spread * torch.randn(1, 1, 5, keys), None, alpha)
        close(weights.sum(-1), torch.ones(1, 1, 5), 1e-5)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
def test_half_precision_is_computed_in_float32(alpha: float) -> None:
    logits = torch.randn(1, 1, 5, 1000).bfloat16()
    close(entmax(logits, None, alpha), entmax(logits.float(), None, alpha).bfloat16(), 0)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "masked"])
def test_entmax_has_the_gradient_of_its_formula(alpha: float, hidden: bool) -> None:
    logits, allow = masked()
    logits, allow = logits[0, :1].clone()[None].requires_grad_(), allow[0, :1][None] if hidden else None
    assert torch.autograd.gradcheck(lambda z: entmax(z, allow, alpha), (logits,))


def test_sparsemax_shares_its_gradient_within_the_support() -> None:
    logits = torch.tensor([[[[-2, 0, 0.5]]]], dtype=torch.float64, requires_grad=True)
    sparsemax(logits, None).backward(torch.tensor([[[[7.0, 1.0, 4.0]]]], dtype=torch.float64))
    assert logits.grad is not None
    close(logits.grad.flatten(), torch.tensor([0, -1.5, 1.5], dtype=torch.float64))


# Forward-mode derivatives load torch's decompositions, which torch warns about.
forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@forward_mode
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "masked"])
def test_entmax_has_second_and_forward_derivatives(alpha: float, hidden: bool) -> None:
    logits, allow = masked()
    logits = logits[:1, :1, 2:4, :5].clone().requires_grad_()
    allow = allow[:1, :1, 2:4, :5] if hidden else None

    def call(z: Tensor) -> Tensor:
        return entmax(z, allow, alpha)

    assert torch.autograd.gradcheck(call, (logits,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (logits,), check_fwd_over_rev=True, check_rev_over_rev=True)


@forward_mode
@pytest.mark.parametrize("part", [part for part in PARTS if part != Hard()], ids=repr)
def test_every_nesting_of_transforms_gives_the_same_second_derivatives(part: Any) -> None:
    logits, allow = masked()
    logits, allow = logits[0, 0] / 8, allow[0, 0]
    built = evaluated(part)

    def loss(z: Tensor) -> Tensor:
        return (built(z[None, None], allow[None, None])[0] ** 2 * torch.arange(7)).sum()

    expected = torch.autograd.functional.hessian(loss, logits)
    assert isinstance(expected, Tensor)
    assert expected.abs().max() > 1e-3
    for outer, inner in itertools.product((torch.func.jacrev, torch.func.jacfwd), repeat=2):
        close(outer(inner(loss))(logits), expected, 1e-9)


@pytest.mark.parametrize("part", [*PARTS, *ESTIMATORS], ids=repr)
def test_vmap_over_logits_and_masks(part: Any) -> None:
    logits, allow = masked()
    built = evaluated(part)
    rows = torch.func.vmap(lambda z, seen: built(z[None], seen[None])[0][0])(logits, allow)
    close(rows, built(logits, allow)[0], 1e-12)


LOWEST = [Soft(), Hard(evaluate="expectation"), TopK(3), Sparsemax(), Entmax(), Entmax(1.3)]


@pytest.mark.parametrize("part", LOWEST, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keys_at_the_smallest_number_share_the_weight_without_hidden_ones(
    part: Any, dtype: torch.dtype
) -> None:
    logits, allow = torch.full((1, 1, 1, 6), torch.finfo(dtype).min, dtype=dtype), torch.ones(6).bool()
    allow[[1, 4]] = False
    weights = evaluated(part)(logits, allow.expand(1, 1, 1, 6))[0][0, 0, 0]
    count = 3 if isinstance(part, TopK) else 4
    close(weights[allow][:count], torch.full((count,), 1 / count, dtype=dtype), torch.finfo(dtype).eps)
    assert not weights[~allow].any()


@pytest.mark.parametrize("part", ESTIMATORS, ids=repr)
def test_draws_among_keys_at_the_smallest_number_are_fair(part: Any) -> None:
    logits, allow = torch.full((1, 1, 4000, 3), torch.finfo(torch.float32).min), torch.ones(3).bool()
    allow[1] = False
    weights, log_prob = part.build(DIMS)(logits.requires_grad_(), allow.expand(1, 1, 1, 3))
    close(weights.sum(-1), torch.ones(1, 1, 4000), 1e-6)
    close(weights.mean((0, 1, 2)), torch.tensor([0.5, 0, 0.5]), 0.05)
    if log_prob is not None:
        close(log_prob.unique(), torch.tensor([0.5, 1.0]).log(), 1e-6)
    weights.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_top_k_of_all_keys_is_soft_and_of_one_is_hard() -> None:
    logits, allow = masked()
    for k in (7, 8):
        close(TopK(k)(logits, allow)[0], softmax(logits, allow), 0)
    close(TopK(1)(logits, allow)[0], evaluated(Hard())(logits, allow)[0])


def test_of_equal_keys_the_first_are_taken_and_never_more_than_k() -> None:
    logits = torch.tensor([[[[0.0, 2, 1, 1, 1, 1, 2]]]], dtype=torch.float64)
    assert TopK(4)(logits, None)[0].nonzero()[:, -1].tolist() == [1, 2, 3, 6]
    assert TopK(1)(logits, None)[0].nonzero()[:, -1].tolist() == [1]
    assert evaluated(Hard())(logits, None)[0].nonzero()[:, -1].tolist() == [1]
    many = torch.zeros(1, 1, 1, 1000)
    assert TopK(3)(many, None)[0].nonzero()[:, -1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopK(0), "'k' is 0: .* greater than 0"),
        (lambda: Entmax(1.0), "'alpha' is 1.0: .* greater than 1"),
        (lambda: Entmax(4.1), "'alpha' is 4.1: .* less than or equal to 4"),
        (lambda: Entmax(math.nan), "'alpha' is nan"),
        (lambda: Hard("nope"), "'estimator' is 'nope'.*'straight_through' or"),  # pyright: ignore[reportArgumentType]
        (lambda: Hard(evaluate="mean"), "'evaluate' is 'mean'"),  # pyright: ignore[reportArgumentType]
        (lambda: Hard(expected=1.5), "'expected' is 1.5: .* less than or equal to 1"),
        (lambda: Hard(expected=-0.1), "'expected' is -0.1: .* greater than or equal to 0"),
        (lambda: Hard(temperature=0.0), "'temperature' is 0.0: .* greater than 0"),
    ],
)
def test_options_out_of_range_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        build()


# torch.compile instantiates torch.autograd.Function itself, which torch warns about.
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("part", [*PARTS[1:6], *ESTIMATORS[1:]], ids=repr)
def test_layers_compile_export_and_learn(part: Any, unchecked: None) -> None:
    torch.compiler.reset()
    layer, x = Attention(6, 2, select=part), torch.randn(2, 5, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for training in (True, False):
        layer.train(training)
        torch.manual_seed(1)
        expected = layer(x)
        torch.manual_seed(1)
        close(compiled(x), expected, 1e-6)
    exported = torch.export.export(
        layer, (x,), dynamic_shapes=({1: torch.export.Dim("positions", min=2, max=64)},)
    )
    longer = torch.randn(2, 11, 6)
    close(exported.module()(longer), layer(longer), 1e-6)
    layer.train()
    shown = layer.attend(x)
    (shown.out.sum() + (0 if shown.log_prob is None else shown.log_prob.sum())).backward()
    assert layer.to_q.weight.grad is not None
    assert layer.to_q.weight.grad.isfinite().all()
    assert layer.to_q.weight.grad.any()
