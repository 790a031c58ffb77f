"""Optimizers: several of them with alternating updates, parameter groups, frozen parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.errors import BadRecipe, BadRun
from qkv.layer import Attention
from qkv.score import Additive
from qkv.train import Loss, Objective, TrainConfig, fit
from qkv.train.checkpoint import load_state
from qkv.train.optimizers import check_patterns_and_freeze_parameters, make_adamw
from test_train_loop import lines_of
from test_train_toy import ToyBatches, config_of, toy


class TwoNetworks(Objective):
    """A generator of numbers and a critic that tells them from the batch's, each with its own optimizer."""

    unit = "images"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.critic = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def optimizers(self, config: TrainConfig, device: str) -> dict[str, Any]:
        return {
            "critic": make_adamw(self, config, device, module=self.critic, lr=0.02, betas=(0.0, 0.9)),
            "generator": make_adamw(self, config, device, module=self.generator, lr=0.005, betas=(0.0, 0.9)),
        }

    def forward(self, batch: Any, name: str) -> Loss:
        real = batch.target[batch.target_keep][:, None].float()
        generated = self.generator(torch.randn(len(real), 2))
        if name == "critic":
            total = (1 - self.critic(real)).relu().sum() + (1 + self.critic(generated.detach())).relu().sum()
        else:
            total = -self.critic(generated).sum()
        return Loss(total, int((batch.target[:, 1:] != 0).sum()), {f"{name}_loss": total.detach()})


class Recorded(TwoNetworks):
    """Records what each turn changes."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer_names: list[str] = []

    def forward(self, batch: Any, name: str) -> Loss:
        self.optimizer_names.append(name)
        return super().forward(batch, name)


def test_each_optimizer_moves_its_own_parameters_by_its_own_loss(tmp_path: Path) -> None:
    objective = Recorded()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    fit(objective, ToyBatches(micro=1), config_of(steps=1, warmup=0), run=tmp_path, quiet=True)
    assert objective.optimizer_names == ["critic", "generator"]
    after = objective.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {"critic.0.weight", "generator.0.weight", "generator.1.running_mean"} <= moved

    expected = TwoNetworks()
    expected.load_state_dict(before)
    loss = reference_critic_loss(expected)
    gradients = torch.autograd.grad(loss, list(expected.critic.parameters()))
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    step = gradients[0] / norm.clamp_min(1.0)
    # Adam's first step with betas (0, 0.9) is the rate times the sign of the gradient
    changed = after["critic.0.weight"] - before["critic.0.weight"]
    torch.testing.assert_close(changed, -0.02 * step.sign(), rtol=1e-3, atol=1e-5)


def reference_critic_loss(objective: TwoNetworks) -> Tensor:
    from qkv.train.engine import seed_torch_for_update

    seed_torch_for_update(1, 1, 0)
    batch = ToyBatches(micro=1).window(0, 0, 0, 1)[0]
    loss = objective(batch, "critic")
    return loss.total / loss.count


def test_alternating_updates_resume_exactly(tmp_path: Path) -> None:
    undisturbed, parts = TwoNetworks(), TwoNetworks()
    fit(undisturbed, ToyBatches(), config_of(steps=12), run=tmp_path / "undisturbed", quiet=True)
    fit(parts, ToyBatches(), config_of(steps=5), run=tmp_path / "parts", quiet=True)
    resumed = TwoNetworks()
    fit(resumed, ToyBatches(), config_of(steps=12), run=tmp_path / "parts", resume=True, quiet=True)
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert set(load_state(tmp_path / "parts")["optimizer"]) == {"critic", "generator"}


def test_a_state_of_other_optimizers_is_refused(tmp_path: Path) -> None:
    fit(TwoNetworks(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)

    class OneOptimizer(TwoNetworks):
        def optimizers(self, config: TrainConfig, device: str) -> dict[str, Any]:
            return {"all": make_adamw(self, config, device)}

    with pytest.raises(BadRun, match="optimizer lacks param_groups, state"):
        fit(OneOptimizer(), ToyBatches(), config_of(steps=3), run=tmp_path, resume=True, quiet=True)


def test_the_unit_is_named_in_the_metrics(tmp_path: Path) -> None:
    fit(TwoNetworks(), ToyBatches(), config_of(steps=4), run=tmp_path, quiet=True)
    line = lines_of(tmp_path, "train")[0]
    assert line["images_per_second"] > 0
    assert {"critic_loss", "generator_loss"} <= line.keys()
    assert "tokens_per_second" not in line


def rates_of(optimizer: torch.optim.Optimizer, objective: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_groups_have_their_own_rate_and_decay() -> None:
    config = config_of(weight_decay=0.1, rates={"inner.*": 0.001}, no_decay=("emb*",), eps=1e-6)
    objective = toy()
    optimizer = make_adamw(objective, config, "cpu")
    assert rates_of(optimizer, objective) == {
        "model.embedding.weight": (0.05, 0.0),
        "model.inner.weight": (0.001, 0.1),
        "model.inner.bias": (0.001, 0.0),
        "model.output.bias": (0.05, 0.0),
    }
    assert optimizer.defaults["eps"] == 1e-6


class WithEvaluator(Objective):
    """An evaluator of attention under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluator = Attention(8, heads=2, score=Additive(hidden=4)).core


def test_a_vector_for_each_head_is_not_decayed() -> None:
    objective = WithEvaluator()
    rates = rates_of(make_adamw(objective, config_of(weight_decay=0.1), "cpu"), objective)
    assert objective.evaluator.score.v.shape == (2, 4)
    assert {name: decay for name, (_, decay) in rates.items()} == {
        "evaluator.score.w": 0.1,
        "evaluator.score.u": 0.1,
        "evaluator.score.v": 0.0,
        "evaluator.score.b": 0.0,
    }


def test_patterns_apply_to_the_parts_of_an_objective() -> None:
    config = config_of(weight_decay=0.1, rates={"critic.2.*": 0.003}, no_decay=("critic.0.*",))
    objective = TwoNetworks()
    rates = rates_of(objective.optimizers(config, "cpu")["critic"], objective)
    assert rates["critic.0.weight"] == (0.02, 0.0)
    assert rates["critic.2.bias"] == (0.003, 0.0)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    objective = toy()
    before = objective.model.inner.weight.detach().clone()
    fit(objective, ToyBatches(), config_of(steps=3, freeze=("inner.*",)), run=tmp_path, quiet=True)
    assert torch.equal(objective.model.inner.weight, before)
    assert not torch.equal(objective.model.output.bias, toy().model.output.bias)


@pytest.mark.parametrize("key", ["freeze", "no_decay"])
def test_a_pattern_without_match_is_refused(key: str) -> None:
    with pytest.raises(BadRecipe, match=rf"train.{key} names 'encoder.\*', which matches no parameter"):
        check_patterns_and_freeze_parameters(toy(), config_of(**{key: ("encoder.*",)}))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(BadRecipe, match="leaves no parameter to train"):
        check_patterns_and_freeze_parameters(toy(), config_of(freeze=("*",)))


class Stack(Objective):
    """An embedding, three layers and an output layer that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.blocks: Any = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head, self.output = nn.Linear(4, 4), nn.Linear(4, 6)
        self.output.weight = self.embedding.weight

    def layer_groups(self) -> list[list[nn.Module]]:
        return [[self.embedding], *([block] for block in self.blocks)]


def test_rates_fall_from_layer_to_layer() -> None:
    objective = Stack()
    config = config_of(lr=1.0, layer_decay=0.5, rates={"blocks.1.bias": 0.7})
    rates = {
        name: rate for name, (rate, _) in rates_of(make_adamw(objective, config, "cpu"), objective).items()
    }
    assert rates == {
        "embedding.weight": 0.5**4,
        **{f"blocks.0.{name}": 0.5**3 for name in ("weight", "bias")},
        **{"blocks.1.weight": 0.5**2, "blocks.1.bias": 0.7},
        **{f"blocks.2.{name}": 0.5 for name in ("weight", "bias")},
        **{"head.weight": 1.0, "head.bias": 1.0, "output.bias": 1.0},
    }
    whole = make_adamw(objective, config_of(lr=1.0), "cpu")
    assert {rate for rate, _ in rates_of(whole, objective).values()} == {1.0}


def test_rates_cannot_fall_where_layers_have_no_order() -> None:
    with pytest.raises(
        BadRecipe, match=r"train.layer_decay is 0.5, but this model does not order its layers"
    ):
        make_adamw(WithEvaluator(), config_of(layer_decay=0.5), "cpu")
