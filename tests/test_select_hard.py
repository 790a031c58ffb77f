"""Hard attention: what is drawn, and the gradients that each estimator makes of it."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.errors import BadRecipe
from qkv.select import Hard, Soft
from qkv.select.soft import softmax
from qkv.shapes import Dims

DIMS = Dims(3, 5, 5, 5)


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def draws(part: Any, rows: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weights and log p(s) of many rows with the same logits, a key of which is hidden; p of the others."""
    logits = torch.tensor([1.0, -0.5, 9.0, 0.0, 2.0], dtype=torch.float64)
    allow = torch.tensor([True, True, False, True, True])
    built = part.build(DIMS).train()
    weights, log_prob = built(logits.expand(1, 1, rows, 5), allow.expand(1, 1, 1, 5))
    return weights[0, 0], log_prob, softmax(logits.expand(1, 1, 1, 5), allow.expand(1, 1, 1, 5))[0, 0, 0]


@pytest.mark.parametrize(
    "part",
    [Hard(expected=0), Hard("straight_through"), Hard("gumbel"), Hard("gumbel", temperature=0.05)],
    ids=lambda part: f"{part.estimator} {part.temperature}",
)
def test_keys_are_drawn_as_often_as_softmax_says(part: Any) -> None:
    rows = 40_000
    weights, log_prob, p = draws(part, rows)
    assert set(weights.unique().tolist()) == {0, 1}
    close(weights.sum(-1), torch.ones(rows, dtype=torch.float64), 0)
    spread = (p * (1 - p) / rows).sqrt()
    assert ((weights.mean(0) - p).abs() <= 4 * spread).all()
    if log_prob is not None:
        close(log_prob[0, 0], p[weights.argmax(-1)].log())


def test_the_log_probability_of_half_precision_is_wide() -> None:
    weights, log_prob = Hard(expected=0).build(DIMS)(torch.randn(1, 1, 2, 5).bfloat16(), None)
    assert (weights.dtype, log_prob.dtype) == (torch.bfloat16, torch.float32)


def test_draws_repeat_with_the_seed_of_torch_and_end_in_evaluation() -> None:
    built, logits = Hard().build(DIMS), doubles(1, 1, 50, 7)
    torch.manual_seed(5)
    first = built(logits, None)[0]
    assert not built(logits, None)[0].equal(first)
    torch.manual_seed(5)
    close(built(logits, None)[0], first, 0)
    weights, log_prob = built.eval()(logits, None)
    close(weights.argmax(-1), logits.argmax(-1), 0)
    assert log_prob is None


def test_straight_through_draws_with_the_gradient_of_softmax() -> None:
    logits, allow = doubles(2, 3, 5, 7), torch.rand(2, 3, 5, 7) < 0.6
    value, slopes = doubles(2, 3, 5, 7), []
    for select in (Hard("straight_through").build(DIMS), Soft()):
        z = logits.clone().requires_grad_()
        (select(z, allow)[0] * value).sum().backward()
        slopes.append(z.grad)
    close(*slopes)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_gumbel_draws_with_the_gradient_of_the_relaxed_sample(progress: float) -> None:
    logits, allow = doubles(2, 3, 5, 7), torch.rand(2, 3, 5, 7) < 0.6
    value, built = doubles(2, 3, 5, 7), Hard("gumbel", temperature=2.0, final_temperature=0.5).build(DIMS)
    built.anneal(progress)
    tau = {0.0: 2.0, 0.5: 1.0, 1.0: 0.5}[progress]
    z = logits.clone().requires_grad_()
    torch.manual_seed(3)
    weights = built(z, allow)[0]
    (weights * value).sum().backward()
    torch.manual_seed(3)
    noise = -torch.empty_like(logits).exponential_().log()
    other = logits.clone().requires_grad_()
    y = softmax((other + noise) / tau, allow)
    (y * value).sum().backward()
    close(z.grad, other.grad)
    close(weights.argmax(-1), y.argmax(-1), 0)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_annealing_knows_only_progress(progress: float) -> None:
    built = Hard("gumbel").build(DIMS)
    for share in (0.7, 0.2, 0.7):
        built.anneal(share)
    close(built.temperature, 0.3**0.7)
    with pytest.raises(BadRecipe, match=f"between 0 .*, got {progress}"):
        built.anneal(progress)


# Two queries over three keys, and a reward that does not split into one part for each query.
TOY = torch.tensor([[[0.3, -0.4, 0.8], [-0.2, 0.5, 0.1]]], dtype=torch.float64)
VALUE = torch.tensor([[1.0, -2.0, 0.5], [0.7, 1.5, -1.0]], dtype=torch.float64)


def reward(weights: Tensor) -> Tensor:
    """[N,1,2,3] -> [N]."""
    context = (weights[:, 0] * VALUE).sum(-1)
    return (context[:, 0] + 2 * context[:, 1]).sin() + context[:, 0] * context[:, 1] + 3


def exact_gradient(expected: float) -> Tensor:
    """d/dz of the mean reward, over every way to mix and every sample, all enumerated."""
    z = TOY.clone().requires_grad_()
    p, total = z.softmax(-1)[0], torch.zeros((), dtype=torch.float64)
    choices = [(None, expected), *((s, 1 - expected) for s in range(3))]
    for (first, one), (second, two) in itertools.product(choices, choices):
        rows = [p[t] if s is None else torch.eye(3)[s].double() for t, s in enumerate((first, second))]
        chance = math.prod(p[t, s] for t, s in enumerate((first, second)) if s is not None)
        total = total + one * two * chance * reward(torch.stack(rows)[None, None])[0]
    return torch.autograd.grad(total, z)[0]


def estimates(part: Hard, baseline: float, rows: int = 40_000) -> Tensor:
    """One estimate [rows,2,3] of the gradient from every row: (r - b) d log p + dr."""
    z = TOY.expand(rows, 1, 2, 3).clone().requires_grad_()
    weights, log_prob = part.build(DIMS).train()(z, None)
    r = reward(weights)
    surrogate = (r.detach() - baseline) * log_prob.sum((1, 2)) + r
    return torch.autograd.grad(surrogate.sum(), z)[0][:, 0]


@pytest.mark.parametrize("expected", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_reinforce_is_unbiased(expected: float, baseline: float) -> None:
    each = estimates(Hard(expected=expected), baseline)
    error = (each.mean(0) - exact_gradient(expected)[0]).abs()
    assert (error <= 3 * each.std(0) / len(each) ** 0.5 + 1e-12).all()


def test_a_baseline_lowers_the_variance() -> None:
    plain, lowered = (estimates(Hard(expected=0), b).var(0) for b in (0.0, 3.0))
    assert (lowered < 0.7 * plain).all()


def test_mixed_contexts_are_expectations_without_log_probability() -> None:
    logits = doubles(2, 3, 5000, 3).requires_grad_()
    weights, log_prob = Hard(expected=0.25).build(DIMS)(logits, None)
    mixed = (weights > 0).all(-1)
    close(weights[mixed], softmax(logits, None)[mixed])
    assert not log_prob[mixed].any()
    assert (log_prob[~mixed] < 0).all()
    assert abs(mixed.double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / mixed.numel())
    (slope,) = torch.autograd.grad(log_prob.sum(), logits)
    assert not slope[mixed].any()
    for other in (
        mixed[:, :, 1:] != mixed[:, :, :-1],
        mixed[:, 1:] != mixed[:, :-1],
        mixed[1:] != mixed[:-1],
    ):
        assert other.any(), "rows, heads and queries decide by themselves"
