"""One update: for every optimizer the exact gradient of a window of micro-batches, clipped, and a step."""

import math
import time
from typing import Any

import torch

from qkv.annealing import AnnealedModule
from qkv.errors import QKVError
from qkv.train import engine
from qkv.train.config import TrainConfig
from qkv.train.freed_memory import FreedMemory, find_trim
from qkv.train.loop_state import LoopState
from qkv.train.metrics import MetricSums
from qkv.train.objective.base import Loss, Objective
from qkv.train.replicated import broadcast_saved_buffers
from qkv.train.schedule import SCHEDULES
from qkv.train.sharded import gather_if_sharded, restore_buffers_after_block
from qkv.train.strategy import make_strategy

SKIPPED_IN_A_ROW = 20  # float16 needs up to 16 halvings to find its loss scale


class Updater:
    """The objective and its optimizers, set up for all processes; `update` does one update.

    The gradient is that of the mean loss per token (or whatever the objective counts) of the whole update:
    every micro-batch's sum is divided by the count of all micro-batches of all processes, whatever the split.
    """

    def __init__(self, objective: Objective, config: TrainConfig, fabric: Any, total_steps: int) -> None:
        """Set up the objective and its optimizers.

        Args:
            objective: the objective to train.
            config: the section `train` of the recipe.
            fabric: the launched Fabric.
            total_steps: the planned number of updates, which schedules need.
        """
        self.config, self.fabric, self.total_steps = config, fabric, total_steps
        self.strategy = make_strategy(fabric, objective, config)
        self.objective, self.optimizers = self.strategy.objective, self.strategy.optimizers
        self.objective.train()
        self.peak_rates = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.annealed = [module for module in self.objective.modules() if isinstance(module, AnnealedModule)]
        self.learning_rate = 0.0
        self.gradient_norm = math.nan
        self.speed = 0.0
        self.freed_memory = FreedMemory(find_trim())

    def update(self, batches: Any, loop_state: LoopState, metric_sums: MetricSums) -> None:
        """Do update number `loop_state.step + 1`, with the batches at that position.

        Args:
            batches: the source of batches, a `Batches`.
            loop_state: the position; its counts of skipped updates are changed.
            metric_sums: the sums to which the metrics of this update are added.

        Raises:
            QKVError: the gradients of the last `SKIPPED_IN_A_ROW` updates were not finite.
        """
        start = time.perf_counter()
        count = batches.count(loop_state.epoch, loop_state.index)
        engine.seed_torch_for_update(self.config.seed, loop_state.step + 1, self.fabric.global_rank)
        for module in self.annealed:
            module.anneal(loop_state.step / self.total_steps)
        norms = []
        for name in self.optimizers:
            self.compute_gradients_and_add_metrics(batches, loop_state, count, metric_sums, name)
            norms.append(self._set_rate_clip_step_and_clear_gradients(name, loop_state))
        self.gradient_norm = math.hypot(*norms) if len(norms) > 1 else norms[0]
        self._count_skipped_update_or_raise(loop_state, math.isfinite(self.gradient_norm))
        broadcast_saved_buffers(self.objective, self.fabric)
        self.freed_memory.give_back_if_grown()
        seconds = time.perf_counter() - start
        self.speed = 0.95 * self.speed + 0.05 * count / seconds if self.speed else count / seconds
        if self.fabric.is_global_zero:
            metric_sums.add("expected", count)
            metric_sums.add("seconds", seconds)

    def compute_gradients_and_add_metrics(
        self,
        batches: Any,
        loop_state: LoopState,
        global_count: int,
        metric_sums: MetricSums,
        optimizer_name: str,
    ) -> None:
        """Leave the gradient of the whole update in the parameters.

        Args:
            batches: the source of batches, a `Batches`.
            loop_state: the position of the update.
            global_count: what the update counts, over all processes.
            metric_sums: the sums to which the metrics are added.
            optimizer_name: the optimizer whose loss it is.
        """
        rank, world = self.fabric.global_rank, self.fabric.world_size
        window = batches.window(loop_state.epoch, loop_state.index, rank, world)
        passes = self.strategy.count_passes(len(window))
        for batch in window:
            self._backpropagate_batch_and_add_metrics(batch, global_count, metric_sums, optimizer_name)
        if passes > len(window):
            # the first process has rows in every update
            filler = window or batches.window(loop_state.epoch, loop_state.index, 0, world)
            self._run_passes_with_zero_loss(filler[-1], passes - len(window), optimizer_name)
        self.strategy.complete_gradient_sums_and_fill_zeros(self.parameters)
        self.objective.update_statistics(
            lambda numbers: engine.sum_over_processes_in_place(numbers, self.fabric)
        )

    def _backpropagate_batch_and_add_metrics(
        self, batch: Any, global_count: int, metric_sums: MetricSums, optimizer_name: str
    ) -> None:
        with self.strategy.make_pass_context():
            loss = self._compute_loss(batch, optimizer_name)
            self.fabric.backward(loss.total / self.strategy.compute_loss_divisor(global_count))
        metric_sums.add("loss", loss.total)
        if optimizer_name == next(iter(self.optimizers)):
            metric_sums.add("tokens", loss.count)
        for metric, value in loss.metrics.items():
            metric_sums.add(metric, value)

    def _run_passes_with_zero_loss(self, batch: Any, passes: int, optimizer_name: str) -> None:
        """Take part in passes for which this process has no micro-batch."""
        with restore_buffers_after_block(self.objective), self.strategy.make_pass_context():
            for _ in range(passes):
                self.fabric.backward(self._compute_loss(batch, optimizer_name).total * 0)

    def _compute_loss(self, batch: Any, optimizer_name: str) -> Loss:
        batch = self.fabric.to_device(batch)
        module = self.strategy.module
        return module(batch) if len(self.optimizers) == 1 else module(batch, optimizer_name)

    def _set_rate_clip_step_and_clear_gradients(self, optimizer_name: str, loop_state: LoopState) -> float:
        """Set the rate, clip, let the optimizer step, and clear the gradients; returns their norm."""
        optimizer = self.optimizers[optimizer_name]
        factor = SCHEDULES[self.config.schedule](loop_state.step + 1, self.config.warmup, self.total_steps)
        for group, peak in zip(optimizer.param_groups, self.peak_rates[optimizer_name], strict=True):
            group["lr"] = peak * factor
        self.learning_rate = self.config.lr * factor
        limit = math.inf if self.config.clip is None else self.config.clip
        norm = self.fabric.clip_gradients(
            self.strategy.module, optimizer, max_norm=limit, error_if_nonfinite=False
        )
        norm = float(gather_if_sharded(norm))
        # with float16 the loss scaler skips the step itself, and halves the scale
        if math.isfinite(norm) or self.config.precision == "16":
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def _count_skipped_update_or_raise(self, loop_state: LoopState, is_gradient_finite: bool) -> None:
        if is_gradient_finite:
            loop_state.skipped_in_a_row = 0
            return
        loop_state.skipped += 1
        loop_state.skipped_in_a_row += 1
        if loop_state.skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise QKVError(
                f"the gradient was not finite in {SKIPPED_IN_A_ROW} updates up to {loop_state.step + 1}. "
                "Lower train.lr, lengthen train.warmup, or set train.precision to '32', and train into "
                "another directory."
            )

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beside the weights; every process must call it."""
        states = {
            name: self._collect_optimizer_state(wrapped.optimizer)
            for name, wrapped in self.optimizers.items()
        }
        return {
            "optimizer": states if len(states) > 1 else next(iter(states.values())),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        The options of the optimizers' groups, the learning rate aside, are those of the configuration.

        Args:
            state: a saved state that `state_check.check_state_fits` accepted.
        """
        for name, wrapped in self.optimizers.items():
            saved = state["optimizer"] if len(self.optimizers) == 1 else state["optimizer"][name]
            groups = wrapped.optimizer.state_dict()["param_groups"]
            for group, saved_group in zip(groups, saved["param_groups"], strict=True):
                group["lr"] = saved_group["lr"]
            moments = self._copy_moments_like_parameters(wrapped.optimizer, saved["state"])
            wrapped.load_state_dict({"param_groups": groups, "state": moments})
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _collect_optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        groups = optimizer.state_dict()["param_groups"]
        return {"state": self.strategy.collect_complete_moments(optimizer), "param_groups": groups}

    def _copy_moments_like_parameters(
        self, optimizer: torch.optim.Optimizer, saved: dict[int, dict[str, Any]]
    ) -> dict[int, Any]:
        """The saved moments by parameter number, as the strategy lays them out."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return {
            number: {
                name: value.clone()
                if name == "step"
                else self.strategy.copy_moment_like_parameter(value, parameters[number])
                for name, value in moments.items()
            }
            for number, moments in saved.items()
        }
