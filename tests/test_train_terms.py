"""The terms of the attention in an objective: by hand, against enumeration, and in a training step."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.errors import BadRecipe
from qkv.layer import Attention
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.select import Hard
from qkv.shapes import Attended, Dims
from qkv.train import AttentionTerms, Objective, Translation, fit
from qkv.train.objective import terms
from test_train_toy import ToyBatches, collate, config_of, toy


def yes(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def test_coverage_by_hand() -> None:
    """Two heads over three source words, the last of them padding; two target words, the second padding."""
    weights = torch.tensor([[[[0.5, 0.5, 0.0], [9.0, 9.0, 9.0]], [[1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]]])
    queries, keys = torch.tensor([[True, False]]), torch.tensor([[True, True, False]])
    assert terms.sum_coverage_penalty(weights, queries, keys).item() == pytest.approx(
        (0.25 + 0.25 + 0 + 1) / 2
    )


def test_entropy_of_soft_weights_is_exact_and_its_gradient_finite_beside_zeros() -> None:
    logits = torch.tensor([[[[0.3, -1.0, 0.7, -torch.inf]]]], dtype=torch.float64, requires_grad=True)
    attended = Attended(torch.empty(0), logits.softmax(-1))
    surrogate, value = terms.sum_entropy_surrogate_and_value(attended, yes(1, 1))
    expected = torch.distributions.Categorical(logits=logits[..., :3]).entropy().sum()
    torch.testing.assert_close((surrogate, value), (expected, expected.detach()))
    (slope,) = torch.autograd.grad(surrogate, logits)
    (exact,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, exact)


def sample_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot samples and their log-probabilities."""
    weights, log_prob = Hard(expected=0.0).build(Dims(1, 1, 1, 1)).train()(logits, None)
    assert log_prob is not None
    return weights, log_prob


def test_entropy_of_samples_has_the_right_gradient_on_average() -> None:
    draws, logits = 40_000, torch.tensor([0.9, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(torch.distributions.Categorical(logits=logits).entropy(), logits)
    repeated = logits.expand(draws, 1, 1, 3).detach().requires_grad_()
    weights, log_prob = sample_weights(repeated)
    surrogate, value = terms.sum_entropy_surrogate_and_value(
        Attended(weights, weights, log_prob), yes(draws, 1)
    )
    (slopes,) = torch.autograd.grad(surrogate, repeated)
    mean, error = slopes[:, 0, 0].mean(0), slopes[:, 0, 0].std(0) / draws**0.5
    assert ((mean - exact).abs() < 3 * error).all()
    entropy = torch.distributions.Categorical(logits=logits).entropy().item()
    assert value.item() / draws == pytest.approx(entropy, abs=0.02)


def test_a_choice_is_rewarded_with_what_comes_after_it() -> None:
    likelihood, real = torch.tensor([[-1.0, -2.0, -4.0]]), torch.tensor([[True, True, False]])
    reward = terms.compute_reward_to_go(likelihood, real, torch.tensor(-0.5))
    assert reward.tolist() == [[-2.0, -1.5, 0.0]]


REWARDS = torch.tensor([[0.3, -1.2, 2.0], [-0.7, 0.4, 0.1]], dtype=torch.float64)  # r1(s1), and r2(s2) + s1
OFFSET = 5.0  # a reward far from zero, which a baseline takes away


def two_choices(theta: Tensor, draws: int, baseline: float) -> Tensor:
    """The estimate [draws,2,3] of the gradient of E[r1(s1) + r2(s1,s2)] from single samples."""
    repeated = theta.detach().expand(draws, 1, 2, 3).clone().requires_grad_()
    weights, log_prob = sample_weights(repeated)
    first, second = weights[:, 0].argmax(-1).unbind(-1)
    reward = torch.stack([REWARDS[0][first], REWARDS[1][second] * (first + 1)], -1) + OFFSET
    reward_to_go = terms.compute_reward_to_go(
        reward, yes(draws, 2), torch.tensor(baseline, dtype=torch.float64)
    )
    loss = terms.sum_reinforce_loss(log_prob, reward_to_go, yes(draws, 2))
    return -torch.autograd.grad(loss, repeated)[0][:, 0]


def test_reinforce_estimates_the_enumerated_gradient_and_a_baseline_lowers_its_variance() -> None:
    theta = torch.tensor([[0.2, -0.5, 0.4], [1.0, 0.0, -0.3]], dtype=torch.float64, requires_grad=True)
    chance, expected = theta.softmax(-1), torch.zeros((), dtype=torch.float64)
    for first, second in itertools.product(range(3), repeat=2):
        reward = REWARDS[0][first] + REWARDS[1][second] * (first + 1) + 2 * OFFSET
        expected = expected + chance[0, first] * chance[1, second] * reward
    (exact,) = torch.autograd.grad(expected, theta)
    spreads = []
    for baseline in (0.0, OFFSET):
        estimates = two_choices(theta, 40_000, baseline)
        error = estimates.std(0) / len(estimates) ** 0.5
        assert ((estimates.mean(0) - exact).abs() < 3 * error).all()
        spreads.append(estimates.var(0).sum().item())
    assert spreads[1] < 0.2 * spreads[0]


def translator(select: Any, attention_terms: AttentionTerms = AttentionTerms()) -> Translation:
    torch.manual_seed(0)
    config = RNNConfig(attention={"score": "additive", "select": select}, embedding=8, hidden=8, dropout=0.0)  # pyright: ignore[reportArgumentType]
    return Translation(RNNTranslator(config, 12, 12), 0.0, attention_terms)


BATCH = collate([[4, 5, 6], [7, 8], [9, 10, 11, 4]])


def test_terms_are_reported_and_add_up() -> None:
    plain = translator("soft").train()(BATCH)
    assert set(plain.metrics) == {"nll", "accuracy"}
    weighed = translator("soft", AttentionTerms(coverage=0.3, entropy=0.2)).train()(BATCH)
    assert set(weighed.metrics) == {"nll", "accuracy", "coverage", "entropy"}
    expected = plain.total + 0.3 * weighed.metrics["coverage"] - 0.2 * weighed.metrics["entropy"]
    torch.testing.assert_close(weighed.total, expected)


def test_in_evaluation_there_is_the_cross_entropy_alone() -> None:
    objective = translator("hard", AttentionTerms(coverage=1.0)).eval()
    loss = objective(BATCH)
    assert set(loss.metrics) == {"nll", "accuracy"}
    torch.testing.assert_close(loss.total, loss.metrics["nll"])
    assert objective.baseline.isnan()


def test_hard_attention_learns_where_to_look_and_tracks_its_reward() -> None:
    objective: Any = translator({"name": "hard", "expected": 0.0}).train()
    first = objective(BATCH)
    objective.update_statistics(lambda numbers: numbers)
    torch.testing.assert_close(objective.baseline, -first.metrics["nll"] / first.count)
    attention: Any = objective.model.attention_layers()["cross.0"]
    first.total.backward()
    assert attention.core.score.v.grad.abs().sum() > 0, "no reward reaches the scores"
    second, third = objective(BATCH), objective(BATCH)  # two batches of one update
    objective.update_statistics(lambda numbers: 2 * numbers)  # as if another process had the same
    now = -(second.metrics["nll"] + third.metrics["nll"]) / (second.count + third.count)
    expected = 0.9 * -first.metrics["nll"] / first.count + 0.1 * now
    torch.testing.assert_close(objective.baseline, expected)


def test_terms_of_an_attention_that_is_not_there_are_refused() -> None:
    model = RNNTranslator(RNNConfig(attention=None, embedding=8, hidden=8), 12, 12)
    with pytest.raises(BadRecipe, match="need an attention"):
        Translation(model, 0.0, AttentionTerms(coverage=1.0))


def test_a_temperature_is_annealed_by_the_training(tmp_path: Path) -> None:
    objective = ToyWithGumbel()
    layer: Any = objective.layer
    fit(objective, ToyBatches(), config_of(steps=10), run=tmp_path, quiet=True)
    assert layer.core.select.temperature == pytest.approx(0.3**0.9)


class ToyWithGumbel(Objective):
    """The toy objective beside an attention that nobody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.toy, self.layer = toy(), Attention(4, select=Hard("gumbel"))

    def forward(self, batch: Any) -> Any:
        loss = self.toy(batch)
        return loss._replace(total=loss.total + 0 * sum(p.sum() for p in self.layer.parameters()))
