"""One update: the exact gradient of a window of micro-batches, clipped, and a step of AdamW."""

import math
import time
from typing import Any

import torch
from torch import nn

from qkv.errors import QKVError
from qkv.train import engine
from qkv.train.config import TrainConfig
from qkv.train.objective import Loss
from qkv.train.record import Tally
from qkv.train.schedule import SCHEDULES
from qkv.train.standing import Standing

SKIPPED_IN_A_ROW = 20  # float16 needs up to 16 halvings to find its loss scale


class Updater:
    """The objective and its optimizer as Fabric set them up; `update` does one step of training.

    The gradient is that of the mean loss per target token of the whole update: every micro-batch's sum is
    divided by the tokens of all micro-batches of all processes, whatever the split.
    """

    def __init__(self, objective: nn.Module, config: TrainConfig, fabric: Any, total_steps: int) -> None:
        self.config, self.fabric, self.total_steps = config, fabric, total_steps
        self.module, self.optimizer = engine.set_up(fabric, objective, config)
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.annealed: list[Any] = [part for part in objective.modules() if hasattr(part, "anneal")]
        self.followers: list[Any] = [part for part in objective.modules() if hasattr(part, "follow")]
        self.rate = 0.0
        self.norm = math.nan
        self.speed = 0.0

    def update(self, batches: Any, standing: Standing, tally: Tally) -> None:
        """Do update number `standing.step + 1`, with the batches at the standing's position.

        Raises QKVError when gradients have not been finite for `SKIPPED_IN_A_ROW` updates.
        """
        start = time.perf_counter()
        tokens = batches.tokens(standing.epoch, standing.index)
        self.fill_gradients(batches, standing, tokens, tally)
        self._step(standing)
        seconds = time.perf_counter() - start
        self.speed = 0.95 * self.speed + 0.05 * tokens / seconds if self.speed else tokens / seconds
        if self.fabric.is_global_zero:
            tally.add("expected", tokens)
            tally.add("seconds", seconds)

    def fill_gradients(self, batches: Any, standing: Standing, tokens: int, tally: Tally) -> None:
        """Leave the gradient of the whole update in the parameters, the same on every process."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        engine.reseed(self.config.seed, standing.step + 1, rank)
        for part in self.annealed:
            part.anneal(standing.step / self.total_steps)
        for batch in batches.window(standing.epoch, standing.index, rank, world):
            self._add_gradient(self.fabric.to_device(batch), tokens, tally)
        engine.sum_gradients(self.parameters, self.fabric)
        for part in self.followers:
            part.follow(lambda numbers: engine.sum_over_processes(numbers, self.fabric))

    def _add_gradient(self, batch: Any, tokens: int, tally: Tally) -> None:
        with self.fabric.no_backward_sync(self.module):
            loss: Loss = self.module(batch)
            self.fabric.backward(loss.total / tokens)
        tally.add("loss", loss.total)
        tally.add("tokens", loss.count)
        for name, value in loss.metrics.items():
            tally.add(name, value)

    def _step(self, standing: Standing) -> None:
        factor = SCHEDULES[self.config.schedule](standing.step + 1, self.config.warmup, self.total_steps)
        self.rate = self.config.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        limit = math.inf if self.config.clip is None else self.config.clip
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        self.norm = float(norm)
        finite = math.isfinite(self.norm)
        scaled = self.config.precision == "16"  # the loss scaler skips the step itself, and halves the scale
        if finite or scaled:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count_skip(standing, finite)

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
            "optimizer": self.optimizer.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, checked by `saved.check_fit`.

        The options of the optimizer's groups are those of the configuration, not those that were saved.
        """
        fresh = self.optimizer.optimizer.state_dict()
        self.optimizer.load_state_dict({**fresh, "state": self._own_moments(state["optimizer"]["state"])})
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _own_moments(self, saved: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The moments in memory of their own, laid out as their parameters: the fused step relies on it."""
        groups = self.optimizer.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        return {
            number: {
                name: value.clone() if name == "step" else torch.zeros_like(parameters[number]).copy_(value)
                for name, value in moments.items()
            }
            for number, moments in saved.items()
        }
