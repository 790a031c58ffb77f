"""The objective of captioning: its terms by hand and by loops, and hard attention by enumeration."""

from typing import Any, NamedTuple

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from qkv.errors import BadData, BadRecipe
from qkv.model.captioner import build_captioner
from qkv.model.captioner_config import CaptionerConfig
from qkv.symbols import BOS, EOS, PAD
from qkv.train.objective.captioning import Captioning, CaptioningTerms
from qkv.train.objective.terms import sum_supervision_loss
from reference.captions import doubly_stochastic

WORDS, CELLS, D = 9, 6, 3
LENGTHS = [4, 2, 3]  # symbols to predict
PATCHES = {"kind": "patches", "patch": 4, "layers": 1, "width": 8, "heads": 2, "feedforward": 8}


class CaptionBatch(NamedTuple):
    """What the objective reads."""

    pictures: Tensor
    target: Tensor
    target_keep: Tensor
    attention_targets: Tensor | None = None


def objective_of(
    attention: Any = "additive", terms: Any = None, kind: str = "rnn", **options: Any
) -> Captioning:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding": 5, "hidden": 6, "attention": attention}
    if kind == "transformer":
        sizes = {"width": 8, "heads": 2, "feedforward": 8, "layers": 2}
    if isinstance(attention, str):
        sizes["attention"] = {"score": attention}
    elif kind == "transformer":
        sizes["cross"] = attention or {}
    sizes = {key: value for key, value in sizes.items() if kind == "rnn" or key != "attention"}
    config: Any = {"kind": kind, "encoder": {"kind": "grid", "width": D}, "dropout": 0, **sizes, **options}
    model = build_captioner(TypeAdapter(CaptionerConfig).validate_python(config), WORDS).double()
    return Captioning(model, 0.0, CaptioningTerms(**(terms or {}))).train()


def draw_batch(pad: int = PAD, attention_targets: Tensor | None = None) -> CaptionBatch:
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(4, WORDS, (3, 5), generator=generator)
    keep = torch.arange(5) <= torch.tensor(LENGTHS)[:, None]
    target[:, 0] = BOS
    target[torch.arange(3), LENGTHS] = EOS
    grids = torch.randn(3, 2, 3, D, generator=generator, dtype=torch.float64)
    return CaptionBatch(grids, target.where(keep, torch.tensor(pad)), keep, attention_targets)


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_the_doubly_stochastic_penalty_equals_its_loop(kind: str) -> None:
    batch, plain = draw_batch(), objective_of(kind=kind)
    objective = objective_of(kind=kind, terms={"coverage": 0.3})
    _, attended = objective.model.forward_with_weights(batch.pictures, batch.target[:, :-1])  # pyright: ignore
    to_grid = [each.weights.detach() for name, each in attended.items() if name.startswith("cross")]
    expected = sum(doubly_stochastic(weights, LENGTHS) for weights in to_grid) / len(to_grid)
    loss = objective(batch)
    assert loss.count == sum(LENGTHS)
    assert loss.metrics["coverage"].item() == pytest.approx(expected)
    torch.testing.assert_close(loss.total, plain(batch).total + 0.3 * expected)


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_padding_of_captions_is_invisible(kind: str) -> None:
    terms = {"coverage": 0.3, "entropy": 0.1, "supervise": 0.5}
    targets = torch.rand(3, 4, CELLS, dtype=torch.float64)
    losses, gradients = [], []
    for pad in (PAD, 7):
        objective = objective_of(kind=kind, terms=terms)
        real = draw_batch().target_keep[:, 1:, None]
        losses.append(objective(draw_batch(pad, targets if pad else targets * real)))
        losses[-1].total.backward()
        gradients.append([p.grad for p in objective.parameters()])
    torch.testing.assert_close(losses[0].total, losses[1].total)
    torch.testing.assert_close(losses[0].metrics, losses[1].metrics)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_supervision_by_hand() -> None:
    """Two heads whose mean is (0.5, 0.3, 0.2); the first word names an object in the first two cells."""
    weights = torch.tensor([[[[0.6, 0.4, 0.0], [1.0, 0.0, 0.0]], [[0.4, 0.2, 0.4], [1.0, 0.0, 0.0]]]])
    targets = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    queries = torch.ones(1, 2, dtype=torch.bool)
    loss = sum_supervision_loss(weights, targets, queries)
    torch.testing.assert_close(loss, -0.5 * torch.tensor(0.5 * 0.3).log())
    assert sum_supervision_loss(weights, targets, ~queries) == 0
    assert sum_supervision_loss(weights.bfloat16(), targets, queries).dtype == torch.float32
    unlit = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    sparse = torch.tensor([[[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]], requires_grad=True)
    sum_supervision_loss(sparse, unlit, queries).backward()
    assert sparse.grad is not None
    assert sparse.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_supervised_attention_moves_to_the_boxes(kind: str) -> None:
    targets = torch.zeros(3, 4, CELLS, dtype=torch.float64)
    targets[:, 0, 4] = targets[:, 1, 1] = 1
    batch = draw_batch(attention_targets=targets)
    cells = batch.pictures.flatten(1, 2)  # a view
    cells[:, 4, 0] = cells[:, 1, 1] = 3  # what tells these cells apart
    options = {"layers": 1} if kind == "transformer" else {}
    objective = objective_of(kind=kind, terms={"supervise": 5.0}, **options)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective(batch)
        loss.total.backward()
        optimiser.step()
    model: Any = objective.eval().model
    weights = model.forward_with_weights(batch.pictures, batch.target[:, :-1])[1]["cross.0"].weights.mean(1)
    assert (weights[:, :2].argmax(-1) == torch.tensor([4, 1])).all()
    assert "supervision" in loss.metrics
    assert set(objective(batch).metrics) == {"nll", "accuracy"}  # in evaluation


class ForcedChoices(nn.Module):
    """A selection that takes cells[t][r] in row r at step t, with their log-probabilities."""

    def __init__(self, cells: list[Tensor]) -> None:
        super().__init__()
        self.cells, self.steps = cells, 0

    def forward(self, logits: Tensor, allow: Any) -> tuple[Tensor, Tensor]:
        chosen = self.cells[self.steps][:, None, None, None]
        self.steps += 1
        one_hot = torch.zeros_like(logits).scatter(-1, chosen, 1)
        return one_hot, logits.log_softmax(-1).gather(-1, chosen)[..., 0]


def test_the_gradient_of_hard_attention_is_that_of_the_expected_log_likelihood() -> None:
    """Two cells and two words: four ways to choose, enumerated, against samples of single ways."""
    objective = objective_of(
        {"score": "additive", "select": {"name": "hard", "expected": 0.0}}, {"reinforce": 1.0}, hidden=3
    )
    model: Any = objective.model
    for parameter in model.parameters():
        parameter.data.mul_(2)  # choices and words that are far from uniform
    grid = torch.tensor([[[[1.0, -2.0, 0.5], [-1.0, 0.5, 2.0]]]], dtype=torch.float64)
    target = torch.tensor([[BOS, 5, EOS]])
    layer, parameters = model.decoder.attention, [p for _, p in model.named_parameters()]
    sampling = layer.core.select
    layer.core.select = ForcedChoices([torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])])
    hidden, attended = model.forward_with_weights(grid.expand(4, -1, -1, -1), target[:, :-1].expand(4, -1))
    log_probs = model.output(hidden).log_softmax(-1).gather(-1, target[:, 1:, None].expand(4, -1, -1))
    chances = attended["cross.0"].log_prob.sum((1, 2)).exp()
    torch.testing.assert_close(chances.sum(), torch.ones_like(chances[0]))
    exact = torch.autograd.grad(-(chances * log_probs.sum((1, 2))).sum(), parameters)
    layer.core.select = sampling
    rows, estimates = 2000, []
    keep = torch.ones(rows, 3, dtype=torch.bool)
    for _ in range(12):
        batch = CaptionBatch(grid.expand(rows, -1, -1, -1), target.expand(rows, -1), keep)
        total = objective(batch).total / rows
        estimates.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)]))
        objective.update_statistics(lambda numbers: numbers)
    estimate, expected = torch.stack(estimates), torch.cat([g.flatten() for g in exact])
    error = estimate.std(0) / len(estimates) ** 0.5
    assert ((estimate.mean(0) - expected).abs() <= 5 * error + 1e-9).all()
    scores = layer.core.score.v.flatten()
    assert scores.numel()
    assert (expected.abs() > 10 * error).sum() > len(expected) / 3  # the errors are small


@pytest.mark.parametrize(
    ("attention", "terms", "options", "message"),
    [
        (None, {"coverage": 1.0}, {}, "need an attention"),
        (
            None,
            {"coverage": 1.0},
            {"encoder": PATCHES},
            "objective.coverage=1 needs attention to a source",
        ),
        (None, {"supervise": 1.0}, {}, "objective.supervise needs attention to the grid"),
        ({"score": "additive", "select": "hard"}, {"supervise": 1.0}, {}, "cannot supervise weights"),
    ],
)
def test_terms_that_cannot_work_are_refused(attention: Any, terms: Any, options: Any, message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        objective_of(attention, terms, **options)


@pytest.mark.parametrize("targets", [None, torch.zeros(3, 4, CELLS - 1)])
def test_supervision_without_targets_for_this_grid_is_refused(targets: Tensor | None) -> None:
    with pytest.raises(BadData, match=r"attention_targets of the shape \[3, 4, 6\]"):
        objective_of(terms={"supervise": 1.0})(draw_batch(attention_targets=targets))


def test_a_sampling_encoder_is_rewarded_with_the_whole_caption() -> None:
    sampling = {"attention": {"select": {"name": "hard", "expected": 0.0}}, "dropout": 0}
    objective = objective_of({"score": "additive"}, encoder={**PATCHES, **sampling})
    batch = draw_batch()._replace(pictures=torch.rand(3, 3, 8, 12, dtype=torch.float64))
    loss = objective(batch)
    loss.total.backward()
    model: Any = objective.model
    gradient = model.encoder.layers[0].attention.to_q.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert loss.metrics["reinforce"].isfinite()
