"""One update: for every optimizer the exact gradient of a window of micro-batches, clipped, and a step."""

import math
import time
from typing import Any

import torch

from qkv.annealing import AnnealedModule
from qkv.errors import QKVError
from qkv.train import engine
from qkv.train.config import TrainConfig
from qkv.train.objective.base import Loss, Objective
from qkv.train.record import Tally
from qkv.train.schedule import SCHEDULES
from qkv.train.standing import Standing

SKIPPED_IN_A_ROW = 20  # float16 needs up to 16 halvings to find its loss scale


class Updater:
    """The objective and its optimizers as Fabric set them up; `update` does one step of training.

    The gradient is that of the mean loss per token (or whatever the objective counts) of the whole update:
    every micro-batch's sum is divided by the count of all micro-batches of all processes, whatever the split.
    """

    def __init__(self, objective: Objective, config: TrainConfig, fabric: Any, total_steps: int) -> None:
        self.objective, self.config, self.fabric, self.total_steps = objective, config, fabric, total_steps
        self.module, self.optimizers = engine.set_up(fabric, objective, config)
        self.peak_rates = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.annealed = [module for module in objective.modules() if isinstance(module, AnnealedModule)]
        self.rate = 0.0
        self.norm = math.nan
        self.speed = 0.0

    def update(self, batches: Any, standing: Standing, tally: Tally) -> None:
        """Do update number `standing.step + 1`, with the batches at the standing's position.

        Raises QKVError when gradients have not been finite for `SKIPPED_IN_A_ROW` updates.
        """
        start = time.perf_counter()
        count = batches.count(standing.epoch, standing.index)
        engine.reseed(self.config.seed, standing.step + 1, self.fabric.global_rank)
        for module in self.annealed:
            module.anneal(standing.step / self.total_steps)
        norms = []
        for name in self.optimizers:
            self.fill_gradients(batches, standing, count, tally, name)
            norms.append(self._step(name, standing))
        self.norm = math.hypot(*norms) if len(norms) > 1 else norms[0]
        self._count_skip(standing, math.isfinite(self.norm))
        engine.synchronise_buffers(self.objective, self.fabric)
        seconds = time.perf_counter() - start
        self.speed = 0.95 * self.speed + 0.05 * count / seconds if self.speed else count / seconds
        if self.fabric.is_global_zero:
            tally.add("expected", count)
            tally.add("seconds", seconds)

    def fill_gradients(self, batches: Any, standing: Standing, count: int, tally: Tally, name: str) -> None:
        """Leave the gradient of the whole update in the parameters, the same on every process.

        name: the optimizer whose loss it is.
        """
        rank, world = self.fabric.global_rank, self.fabric.world_size
        for batch in batches.window(standing.epoch, standing.index, rank, world):
            self._add_gradient(self.fabric.to_device(batch), count, tally, name)
        engine.sum_gradients(self.parameters, self.fabric)
        self.objective.follow(lambda numbers: engine.sum_over_processes(numbers, self.fabric))

    def _add_gradient(self, batch: Any, count: int, tally: Tally, name: str) -> None:
        is_only = len(self.optimizers) == 1
        with self.fabric.no_backward_sync(self.module):
            loss: Loss = self.module(batch) if is_only else self.module(batch, name)
            self.fabric.backward(loss.total / count)
        tally.add("loss", loss.total)
        if name == next(iter(self.optimizers)):
            tally.add("tokens", loss.count)
        for metric, value in loss.metrics.items():
            tally.add(metric, value)

    def _step(self, name: str, standing: Standing) -> float:
        """Clip the gradients of one optimizer's parameters and let it step; returns their norm."""
        optimizer = self.optimizers[name]
        factor = SCHEDULES[self.config.schedule](standing.step + 1, self.config.warmup, self.total_steps)
        for group, peak in zip(optimizer.param_groups, self.peak_rates[name], strict=True):
            group["lr"] = peak * factor
        self.rate = self.config.lr * factor
        limit = math.inf if self.config.clip is None else self.config.clip
        norm = float(
            self.fabric.clip_gradients(self.module, optimizer, max_norm=limit, error_if_nonfinite=False)
        )
        # with float16 the loss scaler skips the step itself, and halves the scale
        if math.isfinite(norm) or self.config.precision == "16":
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def _count_skip(self, standing: Standing, finite: bool) -> None:
        if finite:
            standing.skipped_in_a_row = 0
            return
        standing.skipped += 1
        standing.skipped_in_a_row += 1
        if standing.skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise QKVError(
                f"the gradient was not finite in {SKIPPED_IN_A_ROW} updates up to {standing.step + 1}. "
                "Lower train.lr, lengthen train.warmup, or set train.precision to '32'."
            )

    def state(self) -> dict[str, Any]:
        """What resume needs, beside the weights."""
        return {
            "optimizer": by_name({n: o.optimizer.state_dict() for n, o in self.optimizers.items()}),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, checked by `saved.check_fit`.

        The options of the optimizers' groups, the rate aside, are those of the configuration.
        """
        for name, optimizer in self.optimizers.items():
            before = state["optimizer"] if len(self.optimizers) == 1 else state["optimizer"][name]
            groups = optimizer.optimizer.state_dict()["param_groups"]
            for group, group_before in zip(groups, before["param_groups"], strict=True):
                group["lr"] = group_before["lr"]
            moments = _own_moments(optimizer.optimizer, before["state"])
            optimizer.load_state_dict({"param_groups": groups, "state": moments})
        self.fabric.strategy.precision.load_state_dict(state["precision"])


def by_name(values: dict[str, Any]) -> Any:
    """The values by the names of their optimizers; where there is one optimizer, its value alone."""
    return values if len(values) > 1 else next(iter(values.values()))


def _own_moments(optimizer: torch.optim.Optimizer, saved: dict[int, dict[str, Any]]) -> dict[int, Any]:
    """The moments in memory of their own, laid out as their parameters: the fused step relies on it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        number: {
            name: value.clone() if name == "step" else torch.zeros_like(parameters[number]).copy_(value)
            for name, value in moments.items()
        }
        for number, moments in saved.items()
    }
