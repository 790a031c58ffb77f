"""Whether a saved state fits the training that is to go on: every key, type, shape and dtype, before any use.

The optimizer's fused step trusts the sizes of its moments, so that a state with others would make it write
past their ends; and a value of another type would fail somewhere far from its cause.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import BadRun
from qkv.train.checkpoint import STATE, damaged_error, load_state
from qkv.train.config import MAY_CHANGE, TrainConfig, changed_keys
from qkv.train.loop_state import saved_keys
from qkv.train.objective.base import Objective
from qkv.train.weights import distinct_tensors

FORMAT = 2  # of states; the first had no number, no origin and no copy of the kept weights
PLAIN: dict[str, type] = {
    "config": dict,
    "standing": dict,
    "tally": dict,
    "metrics_bytes": int,
    "origin": dict,
    "weights": dict,
    "last": list,
    "optimizer": dict,
    "precision": dict,
}
KEYS = {*PLAIN, "format", "kept"}
SCORES = ("best", "kept")


class Misfit(Exception):
    """What about a state does not fit, in a few words."""


def read_state(run: Path) -> dict[str, Any]:
    """The saved state of a training, its plain values checked.

    Raises BadRun where there is none, where it is damaged, or where another version of qkv wrote it.
    """
    state = load_state(run)
    if repr(state.get("format")) != repr(FORMAT):  # anything may stand there
        raise BadRun(
            f"{run / STATE} was written by another version of qkv (format {state.get('format', 1)!r:.20}, "
            f"expected {FORMAT}): resume it with that version, or train anew in another directory"
        )
    try:
        _check_values(state)
    except Misfit as error:
        raise damaged_error(run / STATE, str(error)) from None
    return state


def _check_values(state: Mapping[str, Any]) -> None:
    _check_keys("the state", state, KEYS)
    for name, kind in PLAIN.items():
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise Misfit(f"{name} is of type {type(state[name]).__name__}, expected {kind.__name__}")
    for name in ("config", "origin"):
        if not _is_plain(state[name]):
            raise Misfit(f"{name} does not hold plain values")
    if state["metrics_bytes"] < 0:
        raise Misfit(f"metrics_bytes is {state['metrics_bytes']}, expected 0 or more")
    _check_numbers("tally", state["tally"])
    _check_standing(state["standing"])


def check_fit(
    run: Path,
    state: Mapping[str, Any],
    config: TrainConfig,
    objective: Objective,
    optimizers: Mapping[str, torch.optim.Optimizer],
    precision: Mapping[str, Any],
) -> None:
    """Raise BadRun where a state is not one of this configuration, objective, optimizers and precision."""
    changed = changed_keys(config, state["config"])
    if changed:
        raise BadRun(
            f"{run} was trained with other settings of train: {', '.join(changed)}. Resuming may only change "
            f"{', '.join(sorted(MAY_CHANGE))}. Set the others back, or train anew."
        )
    try:
        _check_group("its state", state["weights"], objective.state_dict())
    except Misfit as error:
        raise BadRun(f"{run} was trained with another model: {error}") from None
    try:
        _check_copies(state, objective, config.average)
        _check_optimizers(state["optimizer"], optimizers, state["standing"]["step"])
        _check_precision(state["precision"], precision)
    except Misfit as error:
        raise damaged_error(run / STATE, str(error)) from None


def _check_copies(state: Mapping[str, Any], objective: Objective, average: int) -> None:
    if len(state["last"]) > average:
        raise Misfit(f"last holds {len(state['last'])} sets of weights, expected at most {average}")
    for number, weights in enumerate(state["last"]):
        _check_group(f"last.{number}", weights, distinct_tensors(objective))
    if state["kept"] is not None:
        _check_group("kept", state["kept"], distinct_tensors(objective.saved_module()))


def _check_optimizers(saved: Any, optimizers: Mapping[str, torch.optim.Optimizer], steps: int) -> None:
    if len(optimizers) == 1:
        _check_optimizer(saved, next(iter(optimizers.values())), steps)
        return
    _check_keys("optimizer", saved, set(optimizers))
    for name, optimizer in optimizers.items():
        _check_optimizer(saved[name], optimizer, steps)


def _check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    _check_keys("optimizer", saved, {"state", "param_groups"})
    wanted = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = saved["param_groups"]
    if not isinstance(groups, list) or [_params(group) for group in groups] != wanted:
        raise Misfit("optimizer.param_groups does not list the model's parameters")
    for number, group in enumerate(groups):
        _check_numbers(f"optimizer.param_groups.{number}", {"lr": group.get("lr")})
    moments = saved["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if moments or not isinstance(moments, dict):  # before the first update there are none
        _check_keys("optimizer.state", moments, set(range(len(parameters))))
    for number, parameter in enumerate(parameters if moments else ()):
        _check_moments(f"optimizer.state.{number}", moments[number], parameter, steps)


def _check_precision(saved: Any, fresh: Mapping[str, Any]) -> None:
    _check_keys("precision", saved, set(fresh))
    _check_numbers("precision", saved)
    if any(not math.isfinite(value) or value < 0 for value in saved.values()):
        raise Misfit("precision holds a number that is negative or not finite")


def _check_group(where: str, tensors: Any, wanted: Mapping[str, Tensor]) -> None:
    _check_keys(where, tensors, set(wanted))
    for name, like in wanted.items():
        _check_tensor(f"{where}.{name}", tensors[name], like)


def _check_keys(where: str, values: Any, wanted: set[Any]) -> None:
    if not isinstance(values, Mapping):
        raise Misfit(f"{where} is of type {type(values).__name__}, expected dict")
    missing = sorted(map(str, wanted - values.keys()))
    unknown = sorted(map(str, values.keys() - wanted))
    if missing:
        raise Misfit(f"{where} lacks {_first(missing)}")
    if unknown:
        raise Misfit(f"{where} has the unknown {_first(unknown)}")


def _check_tensor(where: str, value: Any, like: Tensor) -> None:
    if type(value) not in (Tensor, nn.Parameter):
        raise Misfit(f"{where} is of type {type(value).__name__}, expected a tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested:
        raise Misfit(f"{where} is no plain tensor ({value.layout}, {value.device})")
    if value.shape != like.shape:
        raise Misfit(f"{where} has shape {list(value.shape)}, expected {list(like.shape)}")
    if value.dtype != like.dtype:
        raise Misfit(f"{where} has dtype {value.dtype}, expected {like.dtype}")


def _check_moments(where: str, moments: Any, parameter: Tensor, steps: int) -> None:
    _check_keys(where, moments, {"step", "exp_avg", "exp_avg_sq"})
    for name in ("exp_avg", "exp_avg_sq"):
        _check_tensor(f"{where}.{name}", moments[name], parameter)
    step = moments["step"]
    scalar = torch.zeros((), dtype=torch.float64 if _dtype(step) == torch.float64 else torch.float32)
    _check_tensor(f"{where}.step", step, scalar)
    if not (0 <= float(step) <= steps and float(step).is_integer()):
        raise Misfit(f"{where}.step is {float(step)}, expected a whole number of at most {steps}")


def _check_standing(standing: Mapping[str, Any]) -> None:
    _check_keys("standing", standing, set(saved_keys().values()))
    for name, value in standing.items():
        if name == "scores":
            _check_numbers("standing.scores", value)
        elif name == "seconds":
            _check_numbers("standing", {name: value})
        elif name not in SCORES and (type(value) is not int or value < 0):
            raise Misfit(f"standing.{name} is {value!r:.60}, expected a whole number of at least 0")
        elif name in SCORES and value is not None:
            _check_numbers("standing", {name: value})


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _check_numbers(where: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise Misfit(f"{where} is of type {type(values).__name__}, expected dict")
    for name, value in values.items():
        if not isinstance(name, str) or type(value) not in (int, float):
            raise Misfit(f"{where}.{name!s:.60} is {value!r:.60}, expected a number")


def _params(group: Any) -> Any:
    return group.get("params") if isinstance(group, Mapping) else None


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None)


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
